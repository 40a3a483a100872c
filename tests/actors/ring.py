"""The README's actor: a token goes round the ranks."""

import openhpo as hpo


class Token(hpo.Message):
    hops: int


class Ring(hpo.Actor):
    def on_start(self):
        if self.rank == 0:
            self.send(self.address, Token(0))

    @hpo.handles(Token)
    def on_token(self, token, sender):
        print(f"rank {self.rank} has the token after {token.hops} hops")
        if token.hops == self.size:
            self.stop_all()
        else:
            self.send(hpo.Address((self.rank + 1) % self.size, "ring"), Token(token.hops + 1))


if __name__ == "__main__":
    hpo.run_actors(lambda rank, size: {"ring": Ring()}, ranks=3)
