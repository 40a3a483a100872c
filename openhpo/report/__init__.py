"""What a study found, as one page to look at: numbers (`numbers`), charts of them (`charts`), and the page (`page`)."""
