import threading

from openhpo.actors.drive import Mailbox


def test_waiting_for_a_moment_never_becomes_waiting_for_ever():
    mailbox = Mailbox()
    for count in range(30_000):
        mailbox.wait(count % 4 * 1e-6)


def test_who_waits_is_woken_by_a_message_from_a_thread():
    mailbox = Mailbox()
    got = []

    class Loop:
        def take_post(self, name, message):
            got.append((name, message))

    threading.Thread(target=mailbox.put, args=((Loop(), "actor", 7),)).start()
    while not mailbox.deliver():
        mailbox.wait(None)
    assert got == [("actor", 7)]


def test_many_threads_lose_nothing_and_keep_their_own_order():
    mailbox, got = Mailbox(), []

    class Loop:
        def take_post(self, name, message):
            got.append((name, message))

    loop = Loop()

    def talk(name):
        for value in range(5000):
            mailbox.put((loop, name, value))

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    while len(got) < 20_000:
        if not mailbox.deliver():
            mailbox.wait(None)
    for name in "abcd":
        assert [value for speaker, value in got if speaker == name] == list(range(5000))
