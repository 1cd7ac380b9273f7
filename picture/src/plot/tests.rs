use super::*;

fn plot() -> Plot {
    Plot {
        title: "Lag <1 s>".to_owned(),
        width: 1000.0,
        height: 260.0,
        x: Axis {
            label: "time since the begin (s)".to_owned(),
            scale: Scale::linear(0.0, 20.0),
        },
        y: Axis {
            label: "lag (ms)".to_owned(),
            scale: Scale::linear(0.0, 1500.0),
        },
        series: vec![Series {
            name: "p99".to_owned(),
            colour: 1,
            points: vec![(0.5, 500.0), (1.5, 750.0), (9.5, 600.0)],
            gap: 1.5,
        }],
        bands: vec![(0.0, 10.0, "quiet".to_owned()), (10.0, 20.0, "burst".to_owned())],
        marks: vec![(10.0, "store away".to_owned()), (10.5, "store back".to_owned())],
        limits: vec![(1300.0, "limit".to_owned())],
    }
}

#[test]
fn axes_have_labels_with_units_and_events_have_names() {
    let svg = plot().svg();
    for wanted in [
        ">time since the begin (s)</text>",
        ">lag (ms)</text>",
        ">p99</text>",
        ">store away</text>",
        ">quiet</text>",
        ">limit</text>",
        "Lag &lt;1 s&gt;",
        ">500</text>",
    ] {
        assert!(svg.contains(wanted), "no {wanted} in\n{svg}");
    }
    assert_eq!(svg.matches("class=\"mark\"").count(), 2);
}

#[test]
fn a_line_breaks_where_nothing_was_and_names_do_not_lie_on_each_other() {
    let svg = plot().svg();
    let path = svg.lines().find(|line| line.starts_with("<path class=\"c1\"")).unwrap();
    assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
    let mut rows: Vec<usize> = plot().name_rows().iter().map(|(row, ..)| *row).collect();
    assert_eq!(rows.len(), 4);
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows, [0, 1, 2]);
}

#[test]
fn a_line_without_gaps_begins_with_a_move() {
    let mut plot = plot();
    plot.series[0].gap = f64::INFINITY;
    let svg = plot.svg();
    let path = svg.lines().find(|line| line.starts_with("<path class=\"c1\"")).unwrap();
    assert!(path.contains("d=\"M"), "{path}");
    assert_eq!(path.matches('M').count(), 1, "{path}");
}
