"""A DashScope double for rehearsals: it draws, it remembers, it misbehaves on request and it keeps its own invoice.

    client -> generation: authorise, read, check, admit, work, bill, answer -> results: the picture is fetched

checks      what the provider refuses, in its words     limits    how many calls a model takes in a window
inputs      opening the pictures of a call              pictures  the edit that is drawn instead of the real one
faults      what can go wrong, by name                  invoice   what was billed, one line a picture
results     the signed addresses pictures lie under     uploads   the temporary store behind `oss://`
desk        /emulator/...: read the books, ask for faults

It imports `models.catalogue` and nothing else of ours: the code under test and its double share facts, not code.
"""
