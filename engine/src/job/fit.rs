//! Whether what a checkpoint or savepoint holds fits a job, judged before anything is started: operators by name and kind,
//! their states by schema.
//!
//! What an operator does not keep, it does not have to have kept: operators without state come, go and change freely. One
//! that keeps something is found again by its name. A name that was made of its place in the graph only counts while all
//! operators before it are the same ones, since any other could be in that place by now.

use millstream_state::{JobSchemas, Manifest, OperatorPart, StateVerdict};

use super::graph::{NodeId, Plan};

/// An operator as the stored graph's text has it: `  3 counts: window Tumbling { .. } <- key-2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Line<'a> {
    kind: &'a str,
    detail: &'a str,
    input: Option<&'a str>,
}

/// Finds the operator of that name in a graph's text.
fn line_of<'a>(graph: &'a str, uid: &str) -> Option<Line<'a>> {
    let rest = graph.lines().find_map(|line| {
        let (index, rest) = line.trim_start().split_once(' ')?;
        index.parse::<u32>().ok()?;
        rest.strip_prefix(uid)?.strip_prefix(": ")
    })?;
    let (what, input) = rest.rsplit_once(" <- ").map_or((rest, None), |(what, input)| (what, Some(input)));
    let (kind, detail) = what.split_once(' ').unwrap_or((what, ""));
    Some(Line { kind, detail, input })
}

/// The names and kinds of an operator and of all before it, the nearest first.
fn road_to<'a>(graph: &'a str, uid: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut road = Vec::new();
    let mut at = Some(uid);
    while let Some(uid) = at
        && let Some(line) = line_of(graph, uid)
        && road.len() < graph.len()
    {
        road.push((uid, line.kind));
        at = line.input;
    }
    road
}

/// Says what of `manifest`, whose keyed states are `stored`, has no place in the job.
///
/// # Errors
/// The first thing that does not fit, in a sentence without its end.
pub(crate) fn judge(
    manifest: &Manifest,
    stored: &JobSchemas,
    plan: &Plan,
    wanted: &JobSchemas,
    allow_dropped: bool,
) -> Result<(), String> {
    for judged in stored.judge(wanted) {
        // An operator that does not say while planning what it keeps is judged by its shards.
        let is_known = wanted.states_of(&judged.operator).is_some();
        match judged.verdict {
            StateVerdict::Refused(why) if is_known => {
                return Err(why.trim_end_matches(". Nothing was changed").to_owned());
            }
            StateVerdict::Dropped if is_known && !allow_dropped => {
                return Err(format!(
                    "operator \"{}\" keeps no state \"{}\" any more; declare it, say what it was called with \
                     #[state(was = \"{}\")], or allow what has no place to be dropped (Config::allow_dropped)",
                    judged.operator, judged.state, judged.state
                ));
            }
            verdict @ (StateVerdict::Additive(_) | StateVerdict::Dropped) => {
                tracing::info!(operator = judged.operator, state = judged.state, "{verdict}");
            }
            _ => {}
        }
    }
    if manifest.graph_fingerprint != plan.fingerprint() {
        let graph = plan.to_string();
        let mut uids: Vec<&str> = Vec::new();
        for operator in manifest.parts.iter().flat_map(|part| &part.operators).filter(|operator| keeps(operator)) {
            if !uids.contains(&&*operator.uid) {
                uids.push(&operator.uid);
            }
        }
        for uid in uids {
            judge_operator(uid, &manifest.graph, &graph, plan, allow_dropped)?;
        }
    }
    Ok(())
}

/// Whether a checkpoint holds anything of an operator.
fn keeps(operator: &OperatorPart) -> bool {
    !operator.blob.is_null() || !operator.tables.is_empty() || !operator.committables.is_empty()
}

fn judge_operator(uid: &str, stored: &str, own: &str, plan: &Plan, allow_dropped: bool) -> Result<(), String> {
    // A graph's text that does not have the operator is not one of ours; its states are judged all the same.
    let Some(was) = line_of(stored, uid) else { return Ok(()) };
    let Some(is) = line_of(own, uid) else {
        if allow_dropped {
            tracing::warn!(
                operator = uid,
                kind = was.kind,
                "what the operator kept is left behind: the job has none such"
            );
            return Ok(());
        }
        return Err(format!(
            "it holds what operator \"{uid}\" ({}) kept, and the job has no operator of that name; {}give it its name \
             back, or allow what has no place to be dropped (Config::allow_dropped)",
            was.kind,
            if is_made_of_place(uid, was.kind) { "a name made of an operator's place changes with it: " } else { "" }
        ));
    };
    if was.kind != is.kind {
        return Err(format!(
            "operator \"{uid}\" was a {} and is a {}; give one of them another name",
            was.kind, is.kind
        ));
    }
    if was.detail != is.detail {
        return Err(format!("operator \"{uid}\" was `{}` and is `{}`", was.detail, is.detail));
    }
    let node = (0..plan.nodes.len()).find(|index| plan.uid(NodeId(*index as u32)) == uid);
    let is_named = node.is_some_and(|index| plan.nodes[index].name.is_some());
    if !is_named && road_to(stored, uid) != road_to(own, uid) {
        return Err(format!(
            "operator \"{uid}\" has no name of its own, and others before it have changed, so it may be another one; give \
             it a name that says it is the same, .{}(\"{uid}\"{})",
            if was.kind == "sink" { "sink_named" } else { "named" },
            if was.kind == "sink" { ", .." } else { "" }
        ));
    }
    Ok(())
}

/// Whether the name is one that the plan makes.
fn is_made_of_place(uid: &str, kind: &str) -> bool {
    let number = uid.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: &str =
        "  0 clicks: source log /data/a <- b\n  1 filter-1: filter <- clicks\n  2 w: window T { s: 1 } <- filter-1\n";

    #[test]
    fn operators_are_found_in_a_graphs_text() {
        assert_eq!(line_of(GRAPH, "w"), Some(Line { kind: "window", detail: "T { s: 1 }", input: Some("filter-1") }));
        assert_eq!(line_of(GRAPH, "filter-1"), Some(Line { kind: "filter", detail: "", input: Some("clicks") }));
        assert_eq!(line_of(GRAPH, "filter"), None);
        assert_eq!(road_to(GRAPH, "w"), [("w", "window"), ("filter-1", "filter"), ("clicks", "source")]);
    }

    #[test]
    fn a_graph_that_leads_round_in_a_circle_is_left() {
        let circle = "  0 a: map <- b\n  1 b: map <- a\n";
        assert!(road_to(circle, "a").len() <= circle.len());
    }
}
