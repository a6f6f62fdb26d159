//! The secret that all processes of a cluster share, and by which they know each other.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes below which a secret can be guessed.
pub const SECRET_BYTES_MIN: usize = 16;

/// Bytes of the largest secret: a file that is longer is some other file.
pub const SECRET_BYTES_MAX: usize = 4096;

/// What processes that know no secret prove to each other: that they speak this protocol, and nothing else.
const NO_SECRET: &[u8] = b"millstream: no secret, loopback only";

/// The secret of a cluster. Whoever knows it may join; it never crosses the network, only proofs of knowing it do.
///
/// Its bytes are wiped when it is dropped, and it does not show in `{:?}`.
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    /// Keyed once, so that a handshake does not touch the bytes again.
    keyed: Hmac<Sha256>,
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Too few bytes to resist guessing.
    #[error(
        "the cluster secret{} has {bytes} bytes, and at least {SECRET_BYTES_MIN} are needed, lest it be guessed. Make one \
         with `head -c 32 /dev/urandom | base64`.",
        of(path)
    )]
    TooShort {
        /// Where it was read from.
        path: Option<PathBuf>,
        /// What it has.
        bytes: usize,
    },
    /// Too many bytes.
    #[error("the cluster secret{} has more than {SECRET_BYTES_MAX} bytes: is this the file you meant?", of(path))]
    TooLong {
        /// Where it was read from.
        path: Option<PathBuf>,
    },
    /// Others than its owner can read it.
    #[error(
        "the cluster secret in {} can be read by others than its owner (mode {mode:03o}), so it may no longer be one. Run \
         `chmod 600 {}`, and make a new one if others were here.",
        path.display(), path.display()
    )]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file cannot be read or written.
    #[error("the cluster secret in {} cannot be {verb}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gives no random bytes for a secret: {source}. Is getrandom forbidden by a sandbox?")]
    Random {
        /// The system's answer.
        source: io::Error,
    },
}

/// Whether more people can read or change a file than a secret may have.
fn is_open(mode: u32, is_lent: bool) -> bool {
    mode & if is_lent { 0o037 } else { 0o077 } != 0
}

fn of(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()))
}

impl Secret {
    /// The secret in a file. Newlines at its end do not belong to it, so that an editor or `echo` may write it.
    ///
    /// # Errors
    /// If the file cannot be read, if others may read it, or the group of a file of one's own, or if what is in it is too short or too long.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Secret, SecretError> {
        let path = path.as_ref();
        let failed = |source| SecretError::File { path: path.to_owned(), verb: "read", source };
        let file = File::open(path).map_err(failed)?;
        // Of the open file, not of its name: between two looks at a name there may be two files.
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        // Somebody else's file that this process has by its group is how Kubernetes hands out secrets.
        let is_lent = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != metadata.uid());
        if is_open(mode, is_lent) {
            return Err(SecretError::Readable { path: path.to_owned(), mode });
        }
        // Room for all of it from the start: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 3));
        file.take(SECRET_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
        while let Some(b'\n' | b'\r') = bytes.last() {
            bytes.pop();
        }
        Secret::checked(bytes, Some(path))
    }

    /// A secret of these bytes.
    ///
    /// # Errors
    /// If they are too few or too many.
    pub fn from_bytes(bytes: &[u8]) -> Result<Secret, SecretError> {
        Secret::checked(Zeroizing::new(bytes.to_vec()), None)
    }

    /// A new secret of 256 random bits, in 64 hexadecimal digits: for the processes of one host that start each other.
    ///
    /// # Errors
    /// If the kernel gives no random bytes.
    pub fn random() -> Result<Secret, SecretError> {
        let mut bits = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *bits).map_err(|error| SecretError::Random { source: error.into() })?;
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = bits.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| DIGITS[usize::from(digit)]);
        Secret::checked(Zeroizing::new(digits.collect()), None)
    }

    /// Writes the secret to a new file that only its owner may read, for [`from_file`](Self::from_file) in another process.
    ///
    /// # Errors
    /// If there is a file of that name already, or it cannot be written.
    pub fn to_file(&self, path: impl AsRef<Path>) -> Result<(), SecretError> {
        let path = path.as_ref();
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| file.write_all(&self.bytes)).map_err(|source| SecretError::File {
            path: path.to_owned(),
            verb: "written",
            source,
        })
    }

    /// What stands in for a secret between processes of one host that have none.
    pub(crate) fn none() -> Secret {
        Secret::checked(Zeroizing::new(NO_SECRET.to_vec()), None).expect("it is of a fit length")
    }

    fn checked(bytes: Zeroizing<Vec<u8>>, path: Option<&Path>) -> Result<Secret, SecretError> {
        let path = path.map(Path::to_owned);
        match bytes.len() {
            ..SECRET_BYTES_MIN => Err(SecretError::TooShort { path, bytes: bytes.len() }),
            SECRET_BYTES_MIN..=SECRET_BYTES_MAX => {
                let keyed = Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length");
                Ok(Secret { bytes, keyed })
            }
            _ => Err(SecretError::TooLong { path }),
        }
    }

    /// An HMAC keyed with the secret, that has read nothing yet.
    pub(crate) fn keyed(&self) -> Hmac<Sha256> {
        self.keyed.clone()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_file_is_read_without_the_newlines_at_its_end() {
        for content in [&b"0123456789abcdef"[..], b"0123456789abcdef\n", b"0123456789abcdef\r\n\n"] {
            let (_directory, path) = file(content, 0o600);
            assert_eq!(&**Secret::from_file(&path).unwrap().bytes, b"0123456789abcdef");
        }
        // One inside does.
        let (_directory, path) = file(b"01234567\n89abcdef", 0o400);
        assert_eq!(Secret::from_file(&path).unwrap().bytes.len(), 17);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let (_directory, path) = file(b"0123456789abcdef", mode);
            let told = Secret::from_file(&path).unwrap_err().to_string();
            assert!(told.contains(&format!("mode {mode:o}")), "{told}");
            assert!(told.contains(&format!("chmod 600 {}", path.display())), "{told}");
        }
    }

    #[test]
    fn a_group_may_read_what_is_lent_to_it() {
        assert!(is_open(0o440, false) && !is_open(0o440, true));
        assert!(is_open(0o460, true) && is_open(0o444, true) && !is_open(0o400, false));
    }

    #[test]
    fn what_is_too_short_too_long_or_not_there_is_refused_by_name() {
        let (_directory, path) = file(b"0123456789abcde\n", 0o600);
        let told = Secret::from_file(&path).unwrap_err().to_string();
        assert!(told.contains("15 bytes") && told.contains(path.to_str().unwrap()), "{told}");
        let (_directory, path) = file(&[b'x'; SECRET_BYTES_MAX + 1], 0o600);
        assert!(matches!(Secret::from_file(&path), Err(SecretError::TooLong { .. })));
        let (_directory, path) = file(&[b'x'; SECRET_BYTES_MAX], 0o600);
        Secret::from_file(&path).unwrap();
        let told = Secret::from_file("/nowhere/at all").unwrap_err().to_string();
        assert!(told.contains("/nowhere/at all") && told.contains("No such file"), "{told}");
        assert!(Secret::from_bytes(b"short").unwrap_err().to_string().contains("urandom"));
    }

    #[test]
    fn a_random_one_goes_through_a_file_and_shows_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let secret = Secret::random().unwrap();
        assert_ne!(*secret.bytes, *Secret::random().unwrap().bytes);
        secret.to_file(&path).unwrap();
        assert_eq!(*Secret::from_file(&path).unwrap().bytes, *secret.bytes);
        assert!(secret.to_file(&path).is_err(), "it does not overwrite");
        let shown = format!("{secret:?}");
        assert_eq!(shown, "Secret(hidden)");
    }
}
