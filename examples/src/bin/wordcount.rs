//! How often each word occurs in a text: `cargo run -p millstream-examples --bin wordcount -- [FILE]`
//!
//! ```text
//! lines ─▶ words ─▶ key by word ─▶ one window over all of it ─▶ count ─▶ the ten most frequent
//! ```
//!
//! The text is bounded, so it needs no timestamps: every word lies in one window, and that window is complete when the
//! input ends. A word is a `Text<32>`, a text of fixed size, since keys live in pages as plain bytes.
#![expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]

use std::time::Duration;

use anyhow::Context;
use millstream::{Count, Items, Job, Text, Timestamp, Tumbling, Watermarks};
use millstream_connectors::memory::MemorySink;

type Word = Text<32>;

const MILLER_AND_SON: &str = "
    The mill stands by the stream, and the stream turns the mill.
    What the stream brings, the mill grinds; what the mill grinds, the stream carries on.
    The miller counts the sacks, and when the stream stands still, the miller counts them again.
";

/// The words of a line in lower case; one that is longer than a `Word` is cut to its first 32 bytes.
fn words(line: &str) -> Vec<Word> {
    line.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .filter_map(|word| {
            let word = word.to_lowercase();
            let end = (0..=word.len().min(32)).rev().find(|end| word.is_char_boundary(*end))?;
            word[..end].parse().ok()
        })
        .collect()
}

fn main() -> anyhow::Result<()> {
    let text = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(&path).with_context(|| format!("cannot read the text in {path}"))?,
        None => MILLER_AND_SON.to_owned(),
    };
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();

    let counts = MemorySink::new();
    let sink = counts.clone();
    let report = Job::new("wordcount", move |flow| {
        flow.source(Items::of(lines.clone()))
            .event_time(|_| Timestamp(0), Watermarks::monotonic())
            .flat_map(|line| words(line))
            .key_by(|word| *word)
            .window(Tumbling::of(Duration::from_secs(1)))
            .aggregate(Count)
            .map(|row| (row.value, row.key))
            .sink(sink.clone());
    })
    .shards(2)
    .run()?;

    let mut rows: Vec<(u64, Word)> = counts.rows();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    println!("{:>8}  word", "times");
    for (count, word) in rows.iter().take(10) {
        println!("{count:>8}  {word}");
    }
    println!("{} different words; {:.1?} on {} shards", rows.len(), report.elapsed, report.shards);
    Ok(())
}
