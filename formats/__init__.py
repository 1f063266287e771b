"""What is inside the bytes: snapshots, checkpoints, and one module per weight format.

`Checkpoint(snapshot)` is the way in. Nothing here touches the network.
"""
