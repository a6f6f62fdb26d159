//! Runs every example as a newcomer would, and reads what it prints.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn run(example: &str, argument: Option<&Path>) -> String {
    let Output { status, stdout, stderr } =
        Command::new(example).args(argument).output().expect("it was built with us");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{example}: {status}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// The printed line that contains `words`, its columns set apart by one space.
fn line(printed: &str, words: &str) -> String {
    let columns = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    printed
        .lines()
        .map(columns)
        .find(|line| line.contains(words))
        .unwrap_or_else(|| panic!("no \"{words}\" in:\n{printed}"))
}

const WORDCOUNT: &str = env!("CARGO_BIN_EXE_wordcount");
const SALES: &str = env!("CARGO_BIN_EXE_sales");

#[test]
fn wordcount_counts_its_own_text() {
    let printed = run(WORDCOUNT, None);
    assert_eq!(line(&printed, " the"), "12 the");
    assert_eq!(line(&printed, " stream"), "5 stream");
}

#[test]
fn wordcount_counts_a_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("text");
    let long = "ö".repeat(40);
    std::fs::write(&file, format!("one Two two\n\n{long} {long}x three,three three")).expect("the directory is ours");
    let printed = run(WORDCOUNT, Some(&file));
    assert_eq!(line(&printed, "three"), "3 three");
    assert_eq!(line(&printed, "two"), "2 two");
    assert_eq!(line(&printed, "ö"), format!("2 {}", "ö".repeat(16)), "cut at 32 bytes, between two letters");
    assert!(line(&printed, "different words").starts_with("4 "));
}

#[test]
fn wordcount_names_a_file_that_is_not_there() {
    let output = Command::new(WORDCOUNT).arg("/nowhere/text").output().expect("it was built with us");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/text"));
}

#[test]
fn ysb_small_counts_every_view() {
    let printed = run(env!("CARGO_BIN_EXE_ysb_small"), None);
    let views: u64 = printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.len() == 4 && columns[1] == "s")
        .map(|columns| columns[3].parse::<u64>().expect("a number of views"))
        .sum();
    // The generator again, in two lines: it is a function of the event's number.
    let random = |i: u64| (i ^ (i >> 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    assert_eq!(views, (0..3_000_000).filter(|i| (random(*i) >> 16).is_multiple_of(3)).count() as u64);
}

#[test]
fn sensors_closes_every_minute_with_all_its_readings() {
    let printed = run(env!("CARGO_BIN_EXE_sensors"), None);
    assert_eq!(line(&printed, "2 1 2"), "2 1 2 23.0 21.98 60", "minute 2, floor 1, room 2");
    assert_eq!(printed.lines().filter(|line| line.ends_with(" 60")).count(), 3 * 4);
    assert!(printed.contains("0 readings came too late"), "{printed}");
}

#[test]
fn cards_tells_of_the_two_that_are_not_used_as_ever() {
    let printed = run(env!("CARGO_BIN_EXE_cards"), None);
    let stolen = line(&printed, "card 7:");
    assert!(stolen.starts_with("card 7: five payments in a minute; ") && stolen.contains(" in 4 shops"), "{stolen}");
    let car = line(&printed, "card 9:");
    assert!(car.starts_with("card 9: 1900000 cents at the car dealer, ten times its mean; "), "{car}");
    assert!(printed.contains("2 alerts"), "{printed}");
}

#[test]
fn velocity_tells_when_a_burst_begins_and_when_it_is_over() {
    let printed = run(env!("CARGO_BIN_EXE_velocity"), None);
    let alerts: Vec<&str> = printed.lines().filter(|line| line.starts_with("card ")).collect();
    let expected = ["card 7: more than 5 payments within a minute", "card 7: silent at 5092000 ms, 9 payments"];
    assert_eq!(alerts, expected);
    assert!(printed.contains("4 suspicious payments"), "{printed}");
}

#[test]
fn sessions_are_as_long_as_their_clicks_make_them() {
    let printed = run(env!("CARGO_BIN_EXE_sessions"), None);
    let visits: Vec<&str> = printed.lines().collect();
    let expected = [
        "visitor 1: 2 clicks from minute 130 to 131",
        "visitor 1: 4 clicks from minute 0 to 65",
        "visitor 2: 1 clicks from minute 50 to 50",
        "visitor 2: 2 clicks from minute 5 to 6",
    ];
    assert_eq!(visits, expected);
}

#[test]
fn early_alert_tells_of_ten_events_and_counts_the_hour() {
    let printed = run(env!("CARGO_BIN_EXE_early_alert"), None);
    let mut told: Vec<&str> = printed.lines().collect();
    assert_eq!(told.remove(0), "alert: 10 failures in de already");
    told.sort_unstable();
    assert_eq!(told, ["hour 0: 1 failures in fr", "hour 0: 11 failures in de", "hour 1: 1 failures in de"]);
}

#[test]
fn swings_finds_every_pair() {
    let printed = run(env!("CARGO_BIN_EXE_swings"), None);
    // Two cold readings, each with the warm ones of a minute before it and after it.
    let pairs = printed.lines().filter(|line| line.starts_with("sensor 3: ")).count();
    assert!(printed.contains(&format!("{pairs} swings")), "nothing of other sensors: {printed}");
    let cold = [1_000_i64, 1_010];
    let warm = |at: i64| (at - 60..=at + 60).step_by(10).filter(|at| !cold.contains(at)).count();
    assert_eq!(pairs, cold.map(warm).iter().sum::<usize>(), "{printed}");
    assert_eq!(line(&printed, "1060 s"), "sensor 3: -6.0 °C at 1000 s, 19.1 °C at 1060 s");
}

#[test]
fn anomalies_are_the_readings_that_are_off() {
    let printed = run(env!("CARGO_BIN_EXE_anomalies"), None);
    // Every five-hundredth of sensor 4, and neither the drift nor anything of the nine others.
    assert_eq!(line(&printed, "surprises"), "5 surprises");
    for number in (500..3_000).step_by(500) {
        assert!(line(&printed, &format!("reading {number}:")).starts_with("sensor 4, "), "{printed}");
    }
}

#[test]
fn sales_survives_its_own_panic_and_a_second_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let printed = run(SALES, Some(dir.path()));
    let why = line(&printed, "restarted, because");
    assert!(why.contains("operator \"till\"") && why.contains("the till is jammed"), "{why}");
    assert!(printed.contains("exactly what was sold"), "{printed}");
    let printed = run(SALES, Some(dir.path()));
    assert!(!printed.contains("restarted") && printed.contains("exactly what was sold"), "{printed}");
}

#[test]
fn sales_survives_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(SALES).arg(dir.path()).stdout(Stdio::null()).spawn().expect("it was built with us");
    let committed = || dir.path().join("checkpoints").read_dir().is_ok_and(|mut names| names.any(|name| name.is_ok()));
    while !committed() && child.try_wait().expect("it is our child").is_none() {
        #[expect(
            clippy::disallowed_methods,
            reason = "waits for another process, whose files are all there is to see"
        )]
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    let printed = run(SALES, Some(dir.path()));
    assert!(printed.contains("exactly what was sold"), "{printed}");
}

/// The same by hand: each payment by the newest limit that holds at its time.
#[test]
fn rules_hold_from_their_moment_on() {
    let printed = run(env!("CARGO_BIN_EXE_rules"), None);
    let limit = |at_ms: i64| match at_ms {
        ..0 => u64::MAX,
        0..600_000 => 1_090,
        600_000..1_200_000 => 1_085,
        _ => 1_094,
    };
    for each in [1_085, 1_090, 1_094] {
        let over = (0..20_000_i64).filter(|n| {
            let (at_ms, cents) = (n * 100 - n * 7919 % 5_000, 100 + *n as u64 % 997);
            limit(at_ms) == each && cents > each
        });
        assert_eq!(line(&printed, &format!("over {each}")), format!("{} payments over {each} cents", over.count()));
    }
}
