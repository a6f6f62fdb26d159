//! How processes meet: who gets in, who does not and is told why, and what a channel carries. Over loopback, for real.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[cfg(feature = "tls")]
mod between;
mod channel;
mod election;
#[path = "../../examples/fuzz_handshake.rs"]
mod fuzz_handshake;
mod golden;
mod hostile;
mod meeting;
#[cfg(feature = "tls")]
mod tls;
mod world;

use std::sync::Arc;
use std::time::Duration;

use millstream_network::{
    Accepted, Cause, Connection, DialError, Facts, Listener, ListenerFigures, Secret, Trust, dial,
};

/// What only a hang would reach.
const LONG: Duration = Duration::from_secs(20);

fn secret() -> Secret {
    Secret::from_bytes(b"correct horse battery staple").expect("it is long enough")
}

fn trust() -> Trust {
    Trust::new(secret())
}

fn facts() -> Facts {
    Facts::new().with("job", "clicks").with("version", "1").with("graph", "0123abcd")
}

fn listener(trust: &Trust) -> Listener {
    Listener::bind("127.0.0.1:0", trust.clone(), facts()).expect("loopback has a free port")
}

fn call(listener: &Listener, trust: &Trust) -> Result<Connection, DialError> {
    dial(&listener.address().to_string(), trust, &facts(), b"worker 3", LONG)
}

/// Both ends of a connection.
fn meet(listener: &Listener, trust: &Trust) -> (Connection, Accepted) {
    let dialled = call(listener, trust).expect("they agree");
    (dialled, listener.accepted().recv_timeout(LONG).expect("it was accepted"))
}

/// Waits until the listener has written down so many that were dropped for this cause.
fn wait_for(listener: &Listener, cause: Cause, count: u64) -> ListenerFigures {
    for _ in 0..20_000 {
        let figures = listener.figures();
        if figures.dropped(cause) >= count {
            return figures;
        }
        nap();
    }
    panic!("{count} dropped as {cause:?} were awaited: {:?}, {:?}", listener.figures(), listener.dropped());
}

#[expect(clippy::disallowed_methods, reason = "the test's thread waits for nothing but time")]
fn nap() {
    std::thread::sleep(Duration::from_millis(1));
}

#[expect(clippy::disallowed_methods, reason = "how long it takes is what is asked")]
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = std::time::Instant::now();
    let answer = what();
    (answer, start.elapsed())
}

/// A thread of the test's.
#[expect(clippy::disallowed_methods, reason = "the other end of a test is a thread")]
fn beside<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::spawn(what)
}

fn other_secret() -> Trust {
    Trust {
        secret: Some(Arc::new(Secret::from_bytes(b"another one, and as long").expect("it is long enough"))),
        ..trust()
    }
}

#[test]
fn a_fuzzer_finds_nothing_in_a_moment() {
    let mut rounds = 500;
    let tries = fuzz_handshake::fuzz(20_261_122, || {
        rounds -= 1;
        rounds > 0
    });
    assert!(tries > 100_000);
}
