//! The probe where io_uring is really forbidden: this thread forbids it to itself.
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "seccomp has no safe call in std")]

use millstream_network::probe::{UringError, uring_available};

/// Has the kernel answer `errno` to io_uring_setup on the calling thread, for as long as it lives.
fn forbid_io_uring(errno: i32) {
    const LOAD_SYSCALL_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut program = [
        libc::sock_filter { code: LOAD_SYSCALL_NUMBER, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, and its length is its own. It concerns this thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

fn answer_when_forbidden_with(errno: i32) -> UringError {
    std::thread::scope(|threads| {
        let forbidden = threads.spawn(|| {
            forbid_io_uring(errno);
            uring_available().expect_err("the filter answers for the kernel")
        });
        forbidden.join().expect("a probe does not panic")
    })
}

#[test]
fn a_seccomp_profile_is_named() {
    let error = answer_when_forbidden_with(libc::EPERM);
    // Where the switch is off as well, the switch is the first thing to mend.
    assert!(matches!(error, UringError::Forbidden | UringError::SwitchedOff { .. }), "{error}");
}

#[test]
fn a_profile_that_plays_an_old_kernel_is_named() {
    let error = answer_when_forbidden_with(libc::ENOSYS);
    assert!(matches!(error, UringError::Missing), "{error}");
}
