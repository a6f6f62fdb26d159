//! `harness generate`, `harness ysb` from a log to files, and `harness verify`: what is right is found right, and what
//! was tampered with is not.

mod program;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use millstream_connectors::log::LogWriter;
use program::{Place, contents, harness, json, last_line, parts, refused, report};
use serde_json::Value;

const EVENTS: u64 = 100_000;
const PARTITIONS: u32 = 2;

/// A log with its events, and a place beside it.
fn logged(more: &str) -> Place {
    let place = Place::new();
    let log = place.at("log");
    let told = json(&format!(
        "generate ysb --out {log} --events {EVENTS} --partitions {PARTITIONS} --events-per-ms 1 {more} --json"
    ));
    assert_eq!((&told["events"], &told["partitions"], &told["out"]), (&EVENTS.into(), &PARTITIONS.into(), &log.into()));
    place
}

/// The run from the log to files.
fn run(place: &Place, more: &str) -> String {
    format!("ysb --source log --path {} --sink file --out {} {more} --json", place.at("log"), place.at("out"))
}

fn verify(place: &Place) -> String {
    format!("verify --log {} --out {} --json", place.at("log"), place.at("out"))
}

/// The recount finds a difference: its last line, and what it says to people.
#[track_caller]
fn different(place: &Place) -> (Value, String) {
    let output = harness(&verify(place)).assert().code(1).stderr("").get_output().stdout.clone();
    let stdout = String::from_utf8(output).expect("the program writes UTF-8");
    let line = last_line(&stdout);
    assert_eq!(line["verified"], false, "{stdout}");
    assert!(line["differences"].as_u64() > Some(0), "{stdout}");
    (line, stdout)
}

/// The only segment of a partition.
fn segment(place: &Place, partition: u32) -> PathBuf {
    place.path("log").join(format!("partition-{partition:05}/{:020}.log", 0))
}

/// Offset and first byte of the record that byte `at` lies in, found the slow way.
fn record_at(segment: &[u8], at: usize) -> (u64, usize) {
    let (mut offset, mut byte) = (0, 0);
    loop {
        let length: [u8; 4] = segment[byte..byte + 4].try_into().expect("four bytes are four");
        let next = byte + 8 + u32::from_le_bytes(length) as usize;
        if at < next {
            return (offset, byte);
        }
        (offset, byte) = (offset + 1, next);
    }
}

/// Appends lines to partition 1; the first one's offset is half the events.
fn append(place: &Place, lines: &[&[u8]]) {
    let mut log = LogWriter::append_to(place.path("log")).expect("the log is there");
    for line in lines {
        log.append(1, line).expect("there is room");
    }
    log.sync().expect("there is room");
}

fn edit(path: &Path, edit: impl FnOnce(&mut Vec<String>)) {
    let text = fs::read_to_string(path).expect("parts are text");
    let mut lines = text.lines().map(str::to_owned).collect();
    edit(&mut lines);
    fs::write(path, lines.join("\n") + "\n").expect("parts can be written");
}

#[test]
fn what_was_generated_and_run_is_verified() {
    for more in ["", "--skew", "--campaigns 7 --ads-per-campaign 3 --seed 9"] {
        let place = logged(more);
        for shards in program::shards_up_to_two() {
            for combine in ["on", "off"] {
                let ran = json(&run(&place, &format!("--shards {shards} --combine {combine}")));
                assert_eq!((&ran["verified"], &ran["differences"]), (&true.into(), &0.into()), "{ran}");
                assert_eq!((&ran["source"], &ran["sink"]), (&"log".into(), &"file".into()), "{ran}");
                assert_eq!((&ran["encoding"], &ran["events"]), (&"json".into(), &EVENTS.into()), "{ran}");
                let verified = json(&verify(&place));
                assert_eq!(verified["verified"], true, "{verified}");
                for field in ["views", "windows"] {
                    assert!(
                        ran[field].as_u64() > Some(0) && verified[field] == ran[field],
                        "{field}: {verified} {ran}"
                    );
                }
                for field in ["differences", "lost", "duplicated"] {
                    assert_eq!(verified[field], 0, "{verified}");
                }
                fs::remove_dir_all(place.path("out")).unwrap();
            }
        }
    }
}

#[test]
fn the_reports_are_for_people() {
    let place = logged("");
    let text = report(&format!("generate ysb --out {} --events 1k --partitions 3", place.at("other")));
    assert!(text.contains("1,000 in 3 partition(s)") && text.contains(&place.at("other")), "{text}");
    report(&run(&place, ""));
    let text = report(&format!("verify --log {} --out {}", place.at("log"), place.at("out")));
    assert!(text.contains("verified: 1000 windows, ") && text.contains(" views, 0 differences"), "{text}");
}

#[test]
fn a_row_that_is_gone_is_lost_and_one_that_is_there_twice_is_duplicated() {
    let place = logged("");
    json(&run(&place, ""));
    let part = parts(&place.path("out")).remove(0);
    let mine = fs::read(&part).unwrap();
    let first = String::from_utf8(mine.clone()).unwrap().lines().next().unwrap().to_owned();
    let fields: Vec<&str> = first.split('\t').collect();
    let views: u64 = fields[2].parse().unwrap();

    edit(&part, |lines| drop(lines.remove(0)));
    let (line, text) = different(&place);
    assert_eq!((&line["lost"], &line["duplicated"], &line["differences"]), (&views.into(), &0.into(), &1.into()));
    let told = format!("campaign {}, window {}: expected {views}, found 0", fields[0], fields[1]);
    assert!(text.contains(&told) && text.contains(&format!("{views} views lost")), "{text}");

    fs::write(&part, &mine).unwrap();
    edit(&part, |lines| lines.push(lines[0].clone()));
    let (line, text) = different(&place);
    assert_eq!((&line["lost"], &line["duplicated"], &line["differences"]), (&0.into(), &views.into(), &1.into()));
    assert!(text.contains(&format!("{views} counted too often")) && text.contains("in 2 rows"), "{text}");

    // A whole file of another epoch.
    fs::write(&part, &mine).unwrap();
    fs::write(part.with_file_name("part-00000-000000000099.txt"), &mine).unwrap();
    let (line, _) = different(&place);
    assert_eq!(line["lost"], 0, "{line}");
    assert!(line["duplicated"].as_u64() > Some(views), "{line}");
    fs::remove_file(part.with_file_name("part-00000-000000000099.txt")).unwrap();

    // What is pending was not committed, whatever it holds.
    fs::write(place.path("out").join(".pending/shard-00000-1-1"), &mine).unwrap();
    json(&verify(&place));

    edit(&part, |lines| lines.insert(2, "no\trow".to_owned()));
    let shown = part.display().to_string();
    refused(&verify(&place), 1, &[&shown, "line 3", "`no row` is no result row", "separated by tabs"]);
}

#[test]
fn a_window_that_was_counted_wrong_is_told() {
    let place = logged("");
    json(&run(&place, ""));
    let part = parts(&place.path("out")).remove(0);
    let text = fs::read_to_string(&part).unwrap();
    let fields: Vec<&str> = text.lines().next().unwrap().split('\t').collect();
    let views: u64 = fields[2].parse().unwrap();
    let less = format!("{}\t{}\t{}\t{}", fields[0], fields[1], views - 2, fields[3]);
    edit(&part, |lines| lines[0] = less);
    let (line, text) = different(&place);
    assert_eq!((&line["lost"], &line["duplicated"], &line["differences"]), (&2.into(), &0.into(), &1.into()), "{text}");
}

#[test]
fn a_flipped_byte_is_found_by_the_run_and_by_the_recount() {
    let place = logged("");
    json(&run(&place, ""));
    let path = segment(&place, 1);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    let (offset, byte) = record_at(&bytes, at);
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let place_of_it =
        ["partition-00001", &format!("offset {offset}"), &format!("byte {byte}"), "replay from an undamaged copy of"];
    let memory = format!("ysb --source log --path {} --json", place.at("log"));
    refused(&memory, 1, &place_of_it);
    refused(&verify(&place), 1, &place_of_it);
}

#[test]
fn a_torn_tail_is_the_end() {
    let place = logged("");
    let path = segment(&place, 1);
    let length = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
    let ran = json(&run(&place, ""));
    assert_eq!((&ran["verified"], &ran["events"]), (&true.into(), &(EVENTS - 1).into()), "{ran}");
    let verified = json(&verify(&place));
    assert_eq!(verified["views"], ran["views"], "{verified}");
}

#[test]
fn lines_that_are_no_events_do_what_was_chosen() {
    const BAD: [&[u8]; 3] = [b"this is no event", b"{\"event_type\":\"view\"}", b"\xFF\xFE{"];
    let place = logged("");
    append(&place, &BAD);
    let offset = EVENTS / u64::from(PARTITIONS);

    let named = ["partition-00001", &format!("offset {offset}")];
    let said = refused(&run(&place, "--shards 1"), 1, &named);
    assert!(said.contains("operator \"parse\""), "{said}");
    assert!(parts(&place.path("out")).is_empty(), "nothing is committed by a run that failed");
    refused(&run(&place, "--shards 1 --malformed fail"), 1, &named);

    let stdout = report(&run(&place, "--malformed skip"));
    assert!(stdout.contains("3 malformed lines"), "{stdout}");
    assert_eq!(last_line(&stdout)["verified"], true, "{stdout}");
    fs::remove_dir_all(place.path("out")).unwrap();

    let letters = place.path("letters");
    let stdout = report(&run(&place, &format!("--malformed dead-letter --dead-letters {}", letters.display())));
    assert_eq!(last_line(&stdout)["verified"], true, "{stdout}");
    let letters: Vec<Value> = contents(&letters)
        .iter()
        .flat_map(|(_, bytes)| std::str::from_utf8(bytes).unwrap().lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(letters.len(), BAD.len(), "{letters:?}");
    for (number, bad) in BAD.iter().enumerate() {
        let at = format!("partition-00001, offset {}", offset + number as u64);
        let letter = letters.iter().find(|letter| letter["place"] == at);
        let letter = letter.unwrap_or_else(|| panic!("no letter of {at}: {letters:?}"));
        assert_eq!(letter["row"], Value::from(bad.to_vec()), "{letter}");
        assert_eq!(letter["operator"], "parse", "{letter}");
        assert!(letter["why"].as_str().is_some_and(|why| why.starts_with("malformed event: ")), "{letter}");
    }
}

#[test]
fn a_log_is_not_generated_over_another() {
    let place = logged("");
    let before = contents(&place.path("log"));
    let log = place.at("log");
    refused(&format!("generate ysb --out {log} --events 1k"), 1, &[&log, "already holds a log", "an empty directory"]);
    assert_eq!(contents(&place.path("log")), before);
}

#[test]
fn a_log_that_was_not_finished_is_not_taken_for_one() {
    let place = logged("");
    fs::remove_file(place.path("log").join("ysb.json")).unwrap();
    let words = [&place.at("log"), "not a finished log of this benchmark", "ysb.json", "harness generate ysb --out"];
    refused(&run(&place, ""), 1, &words);
    let mut file = OpenOptions::new().create(true).append(true).open(place.path("log").join("ysb.json")).unwrap();
    std::io::Write::write_all(&mut file, b"{\"campaigns\": 3").unwrap();
    refused(&run(&place, ""), 1, &["ysb.json is not what `harness generate ysb` writes", "Generate the log anew"]);
}

#[test]
fn a_run_that_continues_reads_nothing_twice() {
    let place = logged("");
    let args = run(&place, &format!("--checkpoint-dir {}", place.at("checkpoints")));
    let first = json(&args);
    let stdout = report(&args);
    assert!(stdout.contains("continued "), "{stdout}");
    let again = last_line(&stdout);
    assert_eq!((&again["verified"], &again["events"]), (&true.into(), &0.into()), "{again}");
    assert_eq!((&again["windows"], &again["views"]), (&first["windows"], &first["views"]), "{again}");
    json(&verify(&place));
}

#[test]
fn an_input_that_ended_cannot_be_continued() {
    let place = logged("");
    let args = run(&place, &format!("--checkpoint-dir {}", place.at("checkpoints")));
    json(&args);
    let record = fs::read(segment(&place, 1)).unwrap();
    let length = u32::from_le_bytes(record[..4].try_into().unwrap()) as usize;
    // A view, later than every window that has gone out.
    let line = std::str::from_utf8(&record[8..8 + length]).unwrap();
    let at = line.find("\"1436918").expect("an event has its time in quotes") + 1;
    let later = format!("{}1436999999999{}", &line[..at], &line[at + 13..]);
    let later = ["purchase", "click"].iter().fold(later, |line, other| line.replace(other, "view"));
    append(&place, &[later.as_bytes()]);
    refused(&args, 1, &["1 rows came after the end of time", "follow it", "empty checkpoint directory"]);
}
