//! `harness chaos` as a script meets it: real kills of a real process, and nothing is lost.

mod program;

use program::{Place, json, parts, refused, report};

#[test]
fn killed_twice_and_nothing_is_lost_and_nothing_is_there_twice() {
    let run = json("chaos ysb --kills 2 --seed 1 --rate 100k --checkpoint-interval 100ms --campaigns 20 --json");
    for field in ["lost", "duplicated", "differences"] {
        assert_eq!(run[field], 0, "{run}");
    }
    assert_eq!((&run["job"], &run["seed"]), (&"ysb".into(), &1.into()), "{run}");
    assert_eq!((&run["kills"], &run["restarts"]), (&2.into(), &2.into()), "{run}");
    assert!(run["views"].as_u64() > Some(0) && run["windows"].as_u64() > Some(0), "{run}");
    let recovery = |field: &str| run["recovery_ms"][field].as_u64().unwrap();
    assert!(recovery("p50") <= recovery("max") && recovery("max") < 60_000, "{run}");
}

#[test]
fn several_processes_lose_one_after_the_other_whichever_leads() {
    let run = json("chaos ysb --processes 2 --kills 2 --seed 2 --rate 100k --checkpoint-interval 100ms --json");
    for field in ["lost", "duplicated", "differences"] {
        assert_eq!(run[field], 0, "{run}");
    }
    assert_eq!((&run["processes"], &run["kills"]), (&2.into(), &2.into()), "{run}");
}

#[test]
fn killed_and_started_with_other_numbers_of_shards() {
    let run = json("chaos ysb --kills 4 --seed 5 --rate 100k --checkpoint-interval 100ms --rescale --json");
    for field in ["lost", "duplicated", "differences"] {
        assert_eq!(run[field], 0, "{run}");
    }
    assert_eq!(run["restarts"], 4, "{run}");
    assert!(run["rescales"].as_u64() > Some(1), "{run}");
}

#[test]
fn what_is_asked_for_stays_and_the_report_is_for_people() {
    let place = Place::new();
    let text = report(&format!(
        "chaos ysb --kills 1 --seed 3 --rate 100k --checkpoint-interval 100ms --shards 1 --combine off --dir {}",
        place.dir().display()
    ));
    for line in ["chaos ysb: 1 kills, seed 3", "restarts", "lost", "recovery", "verified: ", "views, 0 differences"] {
        assert!(text.contains(line), "{line:?} is missing:\n{text}");
    }
    assert!(!parts(&place.path("out")).is_empty(), "the output is there to look at");
    assert!(place.path("log").join("ysb.json").is_file() && place.path("checkpoints").is_dir());
    // The same verdict, by the verb that anybody can use afterwards.
    let verified = json(&format!("verify --log {} --out {} --json", place.at("log"), place.at("out")));
    assert_eq!(verified["verified"], true, "{verified}");
}

#[test]
fn a_keyed_count_is_killed_and_no_key_is_off_by_one() {
    let place = Place::new();
    let args = "chaos state --kills 3 --seed 5 --rate 100k --keys 5k --checkpoint-interval 100ms";
    let run = json(&format!("{args} --dir {} --json", place.dir().display()));
    for field in ["lost", "duplicated", "differences"] {
        assert_eq!(run[field], 0, "{run}");
    }
    assert_eq!((&run["job"], &run["keys"]), (&"state".into(), &5_000.into()), "{run}");
    assert_eq!((&run["kills"], &run["restarts"]), (&3.into(), &3.into()), "{run}");
    assert!(run["updates"].as_u64() > Some(100_000), "{run}");
    let recovery = |field: &str| run["recovery_ms"][field].as_u64().unwrap();
    assert!(recovery("p50") <= recovery("max") && recovery("max") < 60_000, "{run}");
    assert!(
        !parts(&place.path("out")).is_empty() && place.path("checkpoints").is_dir(),
        "all of it is there to look at"
    );
    refused("chaos ysb --backing file --path /dev/shm", 2, &["--backing goes with state"]);
}
