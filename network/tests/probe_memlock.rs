//! The probe under a small limit on locked memory. The limit is the process's, so this test has a process to itself.
#![expect(unsafe_code, reason = "setrlimit has no safe call in std")]

use millstream_network::probe::{MEMLOCK_BYTES_MIN, UringError, uring_available};

#[test]
fn a_small_memlock_limit_is_named() {
    if let Err(error) = uring_available() {
        // Here io_uring or the limit is refused for good, which is not this test's subject.
        println!("skipped: {error}");
        return;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit), 0);
        limit.rlim_cur = MEMLOCK_BYTES_MIN - 1;
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
    }
    let error = uring_available().expect_err("the limit is below what a shard needs");
    assert!(matches!(error, UringError::LockedMemory { limit_bytes: 524_287 }), "{error}");
}
