//! TLS by the kernel: after the handshake it encrypts what is written to a TCP socket, and decrypts what is read. A socket is then
//! used as if it were plain, by io_uring too, and nothing is copied once more.

#![expect(
    unsafe_code,
    reason = "kernel TLS is set up by setsockopt, for which neither std nor socket2 has a safe call"
)]

use std::ffi::c_int;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// TLS 1.3, as the kernel numbers it.
const TLS_1_3: u16 = 0x0304;

/// Whether this kernel does it, with the one cipher that is used then. Asked once: the kernel loads its module when it is first
/// asked for.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| probe().is_ok())
}

/// Tries it, on a connection of this process to itself: only a connected socket can be asked.
fn probe() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    begin(&socket)?;
    [libc::TLS_TX, libc::TLS_RX].into_iter().try_for_each(|direction| set(&socket, direction, &[0; 32], &[0; 12], 0))
}

/// Hands the keys of a finished handshake to the kernel.
pub(crate) fn take_over(socket: &TcpStream, secrets: ExtractedSecrets) -> io::Result<()> {
    begin(socket)?;
    for (direction, (sequence, secrets)) in [(libc::TLS_TX, secrets.tx), (libc::TLS_RX, secrets.rx)] {
        let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
            return Err(io::Error::other("TLS has agreed on a cipher that was not offered"));
        };
        let key: &[u8; 32] = key.as_ref().try_into().map_err(io::Error::other)?;
        let iv: &[u8; 12] = iv.as_ref().try_into().map_err(io::Error::other)?;
        set(socket, direction, key, iv, sequence)?;
    }
    Ok(())
}

fn begin(socket: &TcpStream) -> io::Result<()> {
    // SAFETY: the option's value is a name, which is passed with its length and read during the call.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_ULP, b"tls".as_ptr().cast(), 3) };
    checked(answer)
}

fn set(socket: &TcpStream, direction: c_int, key: &[u8; 32], iv: &[u8; 12], sequence: u64) -> io::Result<()> {
    let info = libc::tls12_crypto_info_chacha20_poly1305 {
        info: libc::tls_crypto_info { version: TLS_1_3, cipher_type: libc::TLS_CIPHER_CHACHA20_POLY1305 },
        iv: *iv,
        key: *key,
        salt: [],
        rec_seq: sequence.to_be_bytes(),
    };
    // SAFETY: the value is a whole struct as the kernel declares it, passed with its size and read during the call.
    let answer = unsafe {
        let value = (&raw const info).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_TLS, direction, value, size_of_val(&info) as u32)
    };
    checked(answer)
}

fn checked(answer: c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_it_says_so_and_not_anything_else() {
        // Version, cipher, iv, key and sequence: 2 + 2 + 12 + 32 + 0 + 8.
        assert_eq!(size_of::<libc::tls12_crypto_info_chacha20_poly1305>(), 56);
        if let Err(error) = probe() {
            let errors = [libc::ENOENT, libc::ENOPROTOOPT, libc::EINVAL, libc::EPERM, libc::ENOSYS];
            assert!(error.raw_os_error().is_some_and(|error| errors.contains(&error)), "{error}");
            println!("kernel TLS is not tested here: {error}");
        }
    }
}
