"""The page that people look at: `report.html`, one file that opens from disk and asks no server for anything.

    report_file        writes the page, its chunks and the thumbnails' links; what `batchrunner report` calls
    row_chunks         rows as lines, 256 to a chunk, and the index: one column of int32 for each thing to filter by
    ledger_timeline    what the ledger tells of lanes, waits, processes and of each item's way
    live_run, watch    a run whose rows still come, and the server that `batchrunner watch` starts
    run_facts          what the page says about the run as a whole, without a path of this machine
    page.html, page.css, js/    the shell, its style, and ES modules that `report_file` joins

**What the page's script needs.** All data comes through one object, `source` (js/data.js); the views know no other way:

    source.meta                 object, made by `run_facts.page_meta`
    source.index()              promise of an ArrayBuffer: the columns of `meta.columns`, `meta.rows` int32 each
    source.chunk(n)             promise of a text: the lines of chunk n
    source.first                text: the lines of the first rows, or ""
    source.picture(path, sha)   address of a picture
    source.thumb(sha)           address of its thumbnail
    source.subscribe(f)         f({meta, index, from}) when rows from number `from` on are new or changed

A line is `HEAD<tab>REST`: HEAD is the JSON array [id, prompt, answer or error message, vars] that is searched, REST the
row's other fields as JSON, with `_log` for its way through the ledger. Rows may come in any order: the page sorts by
their index in the job.

**A page that is fed over HTTP** calls `report_file.page_pieces` with `live=True` and a `source` script that defines
`window.batchrunnerSource` with these members; a report makes one from its own data blocks. `report_file.read_run` reads
the run once; later rows go into the same `RowChunks` with `add`, whose `index` and `tail` (the chunk that is not full
yet) are what has changed, and `RunOnPage.meta` gives the new `meta`.
"""
