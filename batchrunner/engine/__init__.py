"""Where things happen in order. It sees ports only: no disk, no socket, no clock but the one it is given.

`runner` is the run from start to end; `lanes` says who may send when, `work_queue` what is left to send, `attempt` how
an item fares and `lane_policy` what a problem does to a lane; `task_poller` and `image_tasks` see to image tasks, and
`recorder` writes it all down.
"""
