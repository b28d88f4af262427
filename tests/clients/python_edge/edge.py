"""A small edge: attaches connections to channels, prints what the node answers, detaches at the end.

    pip install -r requirements.txt
    python edge.py 127.0.0.1:8081 --key dev.root:root-secret --channel room:1 --count 3

Stays attached until it is interrupted, or for --stay seconds; then it says goodbye. Exits 1 if the
node refused an item, 2 if it ended the stream. The stubs are made from `proto/` when it starts.
"""

import argparse
import base64
import pathlib
import queue
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "proto"))
import grpc  # noqa: E402

report, services = grpc.protos_and_services("headcount/report/v1/report.proto")


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("node", metavar="HOST:PORT", help="a node's reporter address")
    args.add_argument("--key", required=True, help="API key, such as dev.root:root-secret")
    args.add_argument("--channel", action="append", required=True, help="may be repeated")
    args.add_argument("--count", type=int, default=1, help="connections on each channel")
    args.add_argument("--modes", type=int, default=15, help="bits as in report.proto")
    args.add_argument("--member", help="enters presence under this client id as well")
    args.add_argument("--edge", default="python-edge", help="this edge's name")
    args.add_argument("--stay", type=float, help="seconds; default: until interrupted")
    args = args.parse_args()

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())

    items = []
    for channel in args.channel:
        for n in range(args.count):
            place = {"connection": f"c{n}", "channel": channel}
            items.append(report.Item(attach=report.Attach(**place, modes=args.modes)))
            if args.member:
                enter = report.PresenceEnter(**place, member=args.member)
                items.append(report.Item(presence_enter=enter))

    requests = queue.SimpleQueue()  # at most three are ever in it
    hello = report.Hello(protocol_min=1, protocol_max=1, edge=args.edge,
                         incarnation=int(time.time() * 1000), session=1)
    requests.put(report.ReportRequest(hello=hello))
    key = base64.b64encode(args.key.encode()).decode()
    refused = 0
    with grpc.insecure_channel(args.node) as node:
        answers = services.ReporterStub(node).Report(
            iter(requests.get, None), metadata=[("authorization", f"Basic {key}")])
        try:
            welcome = next(answers).welcome
            print(f"welcome session={welcome.session} window={welcome.limits.window_batches}", flush=True)
            most = welcome.limits.batch_items_max
            for sequence, start in enumerate(range(0, len(items), most), 1):
                batch = report.Batch(sequence=sequence, items=items[start:start + most],
                                     set_complete=start + most >= len(items))
                requests.put(report.ReportRequest(batch=batch))
                ack = next(answers).ack
                refused += len(ack.refusals)
                print(f"ack sequence={ack.sequence} refused={len(ack.refusals)}", flush=True)
                for refusal in ack.refusals:
                    print(f"refused item={refusal.item} {refusal.message}", flush=True)
            stop.wait(args.stay)
            requests.put(report.ReportRequest(goodbye=report.Goodbye()))
            for answer in answers:
                print(answer, flush=True)
        except grpc.RpcError as error:
            print(f"ended {error.code().name}: {error.details()}", file=sys.stderr)
            return 2
        finally:
            requests.put(None)
    print("goodbye", flush=True)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
