"""What is told of it all, and the verdict."""

import datetime
import sys


def standing(lease):
    """`verified`, `runs_out`, `never_issued`, or None while the broker is still at it."""
    if lease["state"] == "ended":
        return {"ran_out": "runs_out"}.get(lease["outcome"], lease["outcome"])
    if lease["state"] == "revoking" and lease["runs_out_at"]:
        return "runs_out"
    return None


def timeline(world, tasks, attempts, chain):
    print()
    rows = [("TASK", "PROVIDER", "ISSUED", "USED", "ENDED", "TAKEN BACK", "REFUSED")]
    rows += [row(world, task) for task in tasks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    print()
    for provider, status in attempts:
        print(f"An outsider of the same user, with a task's own {provider} address and token: {status}")
    print(f"Audit: {chain.strip().splitlines()[-1]}")


def row(world, task):
    lease = task.leases[0] if task.leases else None
    since = lambda at: f"+{at - world.began:.2f} s" if at else "-"  # noqa: E731
    ended = since(task.ended_at) + (" SIGKILL" if task.killed else " exit")
    issued = since(seconds(lease["opened_at"])) if lease else "-"
    if task.failure:
        return (task.id, task.provider, issued, since(task.used_at), ended, f"FAILED: {task.failure}", "")
    refused = f"after {task.refused_ms:.0f} ms" if task.refused_ms is not None else ("OUTLIVED" if task.outlived else "-")
    return (task.id, task.provider, issued, since(task.used_at), ended, taken_back(task, lease), refused)


def taken_back(task, lease):
    match standing(lease) if lease else None:
        case "verified":
            # The broker's clock has milliseconds.
            after = max(0.0, seconds(lease["ended_at"]) - task.ended_at) * 1000
            return f"verified after {after:.0f} ms"
        case "runs_out":
            at = lease["runs_out_at"] or lease["expires_at"]
            return f"runs out at {at[11:19]}"
        case other:
            return other or (lease["state"] if lease else "no lease")


def seconds(text):
    return datetime.datetime.fromisoformat(text).timestamp() if text else None


def count(tasks, world):
    """`issued` is counted from the broker's leases; each is in exactly one of the three others, or the demo fails."""
    leases = [(lease, task) for task in tasks for lease in task.leases] + [(lease, None) for lease in world.strays]
    leases = [(lease, task) for lease, task in leases if standing(lease) != "never_issued"]
    outlived = sum(1 for lease, task in leases if is_outlived(lease, task))
    kinds = [standing(lease) for lease, task in leases if not is_outlived(lease, task)]
    refused = sorted(task.refused_ms for task in tasks if task.refused_ms is not None)
    return {
        "issued": len(leases),
        "verified": kinds.count("verified"),
        "runs_out": kinds.count("runs_out"),
        "outlived": outlived,
        "end_to_refused_ms": {"p50": percentile(refused, 50), "p99": percentile(refused, 99)},
    }


def is_outlived(lease, task):
    """It still works in the probe, and nobody said that it would."""
    probed = task is not None and task.outlived and task.lease_id in (None, lease["lease_id"])
    return probed and standing(lease) != "runs_out"


def percentile(values, percent):
    """The nearest rank; None of nothing."""
    if not values:
        return None
    rank = max(1, -(-len(values) * percent // 100))
    return round(values[rank - 1], 1)


def tell(totals, tasks):
    p50, p99 = totals["end_to_refused_ms"].values()
    print(
        f"{totals['issued']} issued: {totals['verified']} taken back and verified by their target, {totals['runs_out']} "
        f"run out by themselves (their target cannot take them back), {totals['outlived']} outlived their task."
    )
    if p50 is not None:
        probed = sum(1 for task in tasks if task.refused_ms is not None)
        print(f"From the end of a task to the first refusal, {probed} probed: p50 {p50} ms, p99 {p99} ms.")


def verdict(totals, tasks, attempts):
    faults = [f"{task.provider} task {task.id}: {task.failure}" for task in tasks if task.failure]
    if totals["outlived"]:
        faults.append(f"{totals['outlived']} credentials outlived their task")
    if totals["issued"] != totals["verified"] + totals["runs_out"] + totals["outlived"]:
        faults.append("some leases are neither verified nor declared to run out")
    if not all(task.leases for task in tasks):
        faults.append("the broker has no lease of some task")
    faults += [f"an outsider was served at the {provider} address: {status}" for provider, status in attempts if status == 200]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0
