"""Prints what the edges that `run` starts add up to, as JSON: channel to its eight counts."""

import json
import sys

prefix = sys.argv[1]


def plain(attachments, members=0):
    """The counts of so many attachments with modes 15: all but the object modes."""
    counts = dict.fromkeys(("connections", "publishers", "subscribers", "presenceConnections",
                            "presenceSubscribers"), attachments)
    return counts | {"presenceMembers": members, "objectPublishers": 0, "objectSubscribers": 0}


print(json.dumps({
    f"{prefix}both sides": plain(2 + 1, members=1),
    f"{prefix}a,b/ü": plain(2),
    f"{prefix}first:1": plain(2),
    f"{prefix}first:2": plain(2),
    f"{prefix}last:1": plain(1, members=1),
}))
