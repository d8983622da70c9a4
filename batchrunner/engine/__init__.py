"""Where things happen in order. It sees ports only: no disk, no socket, no clock but the one it is given.

`runner` is the story on one page; `lanes` says who may send when, `work_queue` what is left to send, `attempt` how an
item fares, `lane_policy` what trouble does to a lane; `tasks` and `remote` follow image tasks, `record` writes it all
down.
"""
