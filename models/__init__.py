"""The nouns of packshot and the rules that guard them. Imports nothing of ours.

The words, one meaning each, in code, tables, logs, commands and documents alike:

manifest   a YAML or CSV file that says what to edit, how, and where the pictures go
batch      one submitted manifest: pinned checksum, settings, budget, priority
row        one line of the manifest: an item (SKU), its pictures, its instruction, its destination, free columns
job        one distinct edit to buy; rows that ask for the same edit share one job
attempt    one call of the API for a job, with its outcome
output     one picture that an attempt yielded
object     the stored copy of an output for one row
entry      one line of the ledger: reserve, charge, release, adjust; integer micro-units of a currency
claim      a worker's lease on a job: owner, token, until when
model      the provider's image model; never a table row, which is a record
picture    an input of an edit: a local file, an https:// or s3:// address, or a data: URI
exposure   what calls of unknown outcome may have cost, until somebody knows better
"""
