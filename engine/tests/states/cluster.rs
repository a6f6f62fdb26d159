//! Jobs in several processes, which here are one: they meet over loopback all the same, and know nothing of each other that
//! was not said over a socket. Processes that are killed for real are `harness chaos`'s.

use std::net::TcpListener;
use std::time::Duration;

use millstream::{Cluster, Job, JobError, JobHandle, JobReport, Secret};

use crate::sales::{Once, Place, Sale, Sales, assert_same, job, oracle};

const SALES: u64 = 60_000;

/// An address that nobody listens at.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// As each process of a job runs it.
fn one_of(job: Job, cluster: Cluster) -> Job {
    job.cluster(cluster).configure(|config| config.handle_signals = false)
}

/// Starts a job in so many processes; the first handle is the lead's.
fn start(processes: u32, lead: &str, job: impl Fn() -> Job) -> Vec<JobHandle> {
    let process = |number| match number {
        0 => Cluster::lead(processes).listening(lead),
        _ => Cluster::join(lead, processes),
    };
    (0..processes).map(|number| one_of(job(), process(number)).start().unwrap()).collect()
}

fn wait(handles: Vec<JobHandle>) -> Vec<Result<JobReport, JobError>> {
    handles.into_iter().map(JobHandle::wait).collect()
}

#[test]
fn shards_in_several_processes_come_to_the_same() {
    for (processes, shards, combine) in [(2, 2, true), (2, 3, false), (3, 4, false)] {
        let what = format!("{shards} shards in {processes} processes, combine {combine}");
        let place = Place::new();
        let source = Sales::of(SALES);
        let of_job = || {
            job(source.clone(), &place.out(), |_| {}, |_| {})
                .shards(shards)
                .combine(combine)
                .checkpoints(place.checkpoints(), Duration::from_millis(20))
        };
        let reports = wait(start(processes, &free_address(), of_job));
        assert_same(&place.lines(), &oracle(SALES), &what);
        let lead = reports[0].as_ref().unwrap();
        assert_eq!(lead.measured.events_in, SALES, "{what}: the lead has all shards' reports");
        assert!(lead.checkpoints.completed > 0 && lead.restarts.is_empty(), "{what}: {lead}");
        let workers: u64 = reports[1..].iter().map(|report| report.as_ref().unwrap().measured.events_in).sum();
        assert!(workers > 0 && workers < SALES, "{what}: a worker reports its own shards");
    }
}

#[test]
fn a_panic_in_any_process_restarts_the_job_in_all_of_them() {
    for shard in 0..3 {
        let place = Place::new();
        let panics = Once::at(30_000 / 3 * 3 + shard);
        let source = Sales { pace: 100, ..Sales::of(SALES) };
        let of_job = || {
            let panics = panics.clone();
            let look = move |sale: &Sale| assert!(!panics.is(sale.number), "sale {} fell on the floor", sale.number);
            job(source.clone(), &place.out(), look, |_| {})
                .shards(3)
                .checkpoints(place.checkpoints(), Duration::from_millis(7))
        };
        let reports = wait(start(3, &free_address(), of_job));
        let lead = reports[0].as_ref().unwrap();
        assert_same(&place.lines(), &oracle(SALES), &format!("shard {shard}"));
        assert_eq!(lead.restarts.len(), 1, "{:?}", lead.restarts);
        assert!(lead.restarts[0].contains("fell on the floor"), "{}", lead.restarts[0]);
    }
}

#[test]
fn processes_that_elect_their_lead_have_one() {
    let place = Place::new();
    let source = Sales::of(SALES);
    let of_job = || {
        let job = job(source.clone(), &place.out(), |_| {}, |_| {}).shards(3);
        one_of(job.checkpoints(place.checkpoints(), Duration::from_millis(20)), Cluster::elected(3))
    };
    let handles: Vec<JobHandle> = (0..3).map(|_| of_job().start().unwrap()).collect();
    let reports: Vec<JobReport> = handles.into_iter().map(|handle| handle.wait().unwrap()).collect();
    assert_same(&place.lines(), &oracle(SALES), "elected");
    assert_eq!(reports.iter().filter(|report| report.led).count(), 1);
    // All of them are gone, and others go on: in a later term, behind the last checkpoint.
    let handles: Vec<JobHandle> = (0..3).map(|_| of_job().start().unwrap()).collect();
    for report in handles.into_iter().map(|handle| handle.wait().unwrap()) {
        assert!(report.restored_epoch > 0 && report.measured.events_in == 0, "{report}");
    }
    assert_same(&place.lines(), &oracle(SALES), "once more");
}

#[test]
fn who_elects_needs_a_place_to_do_so() {
    let place = Place::new();
    let job = job(Sales::of(10), &place.out(), |_| {}, |_| {}).shards(2);
    let error = one_of(job, Cluster::elected(2)).run().unwrap_err().to_string();
    assert!(error.contains("place of checkpoints"), "{error}");
}

#[test]
fn processes_that_differ_are_told_in_what() {
    let (place, address) = (Place::new(), free_address());
    let of_job = |shards: u32| job(Sales::of(10), &place.out(), |_| {}, |_| {}).shards(shards);
    let soon = |cluster: Cluster| Cluster { gather_timeout: Duration::from_secs(1), ..cluster };
    let lead = one_of(of_job(2), soon(Cluster::lead(2).listening(&address))).start().unwrap();
    let error = one_of(of_job(3), soon(Cluster::join(&address, 2))).run().unwrap_err();
    assert!(matches!(&error, JobError::Mismatch(why) if why.contains("shards") && why.contains('3')), "{error}");
    let secret = Secret::from_bytes(b"open sesame, open sesame").unwrap();
    let error = one_of(of_job(2), soon(Cluster::join(&address, 2).secret(secret))).run().unwrap_err();
    assert!(matches!(&error, JobError::Mismatch(why) if why.contains("secret")), "{error}");
    let error = lead.wait().unwrap_err().to_string();
    assert!(error.contains("process 1 of 2 has not come") && error.contains(&address), "{error}");
}
