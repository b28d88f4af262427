"""A small edge: attaches connections to channels, prints what the node answers, detaches at the end.

    python edge.py 127.0.0.1:8081 --key dev.root:root-secret --channel room:1 --count 3

Stays until it is interrupted. Exits 1 if the node refused an item, 2 if it ended the stream."""

import argparse, base64, pathlib, queue, signal, sys, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "proto"))
import grpc  # after the path, on which it finds `proto/` and makes the stubs from it

report, services = grpc.protos_and_services("headcount/report/v1/report.proto")


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("node", metavar="HOST:PORT", help="a node's reporter address")
    args.add_argument("--key", required=True, help="API key, such as dev.root:root-secret")
    args.add_argument("--channel", action="append", required=True, help="may be repeated")
    args.add_argument("--count", type=int, default=1, help="connections on each channel")
    args.add_argument("--member", help="enters presence under this client id as well")
    args.add_argument("--edge", default="python-edge", help="this edge's name")
    args = args.parse_args()
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    items = []
    for place in ({"connection": f"c{n}", "channel": c} for c in args.channel for n in range(args.count)):
        items.append(report.Item(attach=report.Attach(**place, modes=15)))
        if args.member:
            items.append(report.Item(presence_enter=report.PresenceEnter(**place, member=args.member)))
    requests, refused = queue.SimpleQueue(), 0  # at most three requests are ever in it
    requests.put(report.ReportRequest(hello=report.Hello(
        protocol_min=1, protocol_max=1, edge=args.edge, incarnation=int(time.time() * 1000), session=1)))
    login = [("authorization", "Basic " + base64.b64encode(args.key.encode()).decode())]
    with grpc.insecure_channel(args.node) as node:
        answers = services.ReporterStub(node).Report(iter(requests.get, None), metadata=login)
        try:
            most = next(answers).welcome.limits.batch_items_max
            for sequence, start in enumerate(range(0, len(items), most), 1):
                requests.put(report.ReportRequest(batch=report.Batch(
                    sequence=sequence, items=items[start:start + most],
                    set_complete=start + most >= len(items))))
                ack = next(answers).ack
                refused += len(ack.refusals)
                print(f"ack sequence={ack.sequence} refused={len(ack.refusals)}", flush=True)
                for refusal in ack.refusals:
                    print(f"refused item={refusal.item} {refusal.message}", flush=True)
            stop.wait()
            requests.put(report.ReportRequest(goodbye=report.Goodbye()))
            print("goodbye", *answers, flush=True)
        except grpc.RpcError as error:
            print(f"ended {error.code().name}: {error.details()}", file=sys.stderr)
            return 2
        finally:
            requests.put(None)
    return 1 if refused else 0


sys.exit(main())
