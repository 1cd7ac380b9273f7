#!/usr/bin/env python3
"""Prints the Grafana dashboard. Import the output: Dashboards, New, Import."""
import json

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
BY_CLUSTER = '{cluster=~"$cluster"}'


def target(expression, legend):
    return {"datasource": DATASOURCE, "expr": expression, "legendFormat": legend, "refId": "A"}


def panel(number, kind, title, expression, legend, unit, place, thresholds=None):
    x, y, width, height = place
    steps = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in thresholds or []]
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": [target(expression, legend)],
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []},
        "options": {},
    }


def main():
    m = lambda name: f"seawall_{name}{BY_CLUSTER}"
    age = lambda name: f"time() - seawall_{name}{BY_CLUSTER}"
    panels = [
        panel(1, "stat", "Lost if the host dies now", m("rpo_seconds"), "{{cluster}}", "s", (0, 0, 6, 4), [(5, "yellow"), (60, "red")]),
        panel(2, "stat", "Streaming", m("streaming"), "{{cluster}}", "bool_yes_no", (6, 0, 4, 4)),
        panel(3, "stat", "Newest backup", age("last_backup_timestamp_seconds"), "{{cluster}}", "s", (10, 0, 5, 4), [(129600, "red")]),
        panel(4, "stat", "Stored bytes compared", age("last_verify_timestamp_seconds"), "{{cluster}}", "s", (15, 0, 5, 4), [(691200, "red")]),
        panel(5, "stat", "Restore last tested", age("last_proof_timestamp_seconds"), "{{cluster}}", "s", (20, 0, 4, 4), [(2764800, "red")]),
        panel(6, "table", "Open alarms", f"{m('alarm')} > 0", "", "none", (0, 4, 12, 7)),
        panel(7, "timeseries", "RPO", m("rpo_seconds"), "{{cluster}}", "s", (12, 4, 12, 7)),
        panel(8, "timeseries", "WAL archived", f"rate({m('wal_bytes_total')}[5m])", "{{cluster}}", "Bps", (0, 11, 8, 7)),
        panel(9, "timeseries", "WAL kept for us by the server", m("retained_wal_bytes"), "{{cluster}}", "bytes", (8, 11, 8, 7)),
        panel(10, "timeseries", "Commit to archived", m("archive_lag_seconds"), "{{cluster}} {{percentile}} %", "s", (16, 11, 8, 7)),
        panel(11, "timeseries", "Disks", m("disk_used_ratio"), "{{cluster}} {{disk}}", "percentunit", (0, 18, 8, 7)),
        panel(12, "timeseries", "Backups: duration", m("last_backup_duration_seconds"), "{{cluster}}", "s", (8, 18, 8, 7)),
        panel(13, "timeseries", "Backups: bytes added", m("last_backup_stored_bytes"), "{{cluster}}", "bytes", (16, 18, 8, 7)),
    ]
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "cluster",
            "type": "query",
            "datasource": DATASOURCE,
            "query": "label_values(seawall_streaming, cluster)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
        },
    ]
    board = {
        "uid": "seawall",
        "title": "Seawall",
        "schemaVersion": 39,
        "version": 1,
        "tags": ["postgresql", "backup"],
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": panels,
    }
    print(json.dumps(board, indent=2))


main()
