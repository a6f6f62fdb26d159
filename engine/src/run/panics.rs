//! Panics in user code become values, with the place they came from, and nothing on stderr but our own report.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<String> = const { RefCell::new(String::new()) };
}

static HOOK: Once = Once::new();

/// Runs `work`; a panic comes back as its message and place. The hook that was installed before goes on serving every
/// panic elsewhere.
///
/// # Errors
/// The panic's message and place.
pub(crate) fn catch<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !CATCHING.get() {
                return before(panic);
            }
            let place = panic.location().map_or(String::new(), |at| format!(" at {}:{}", at.file(), at.line()));
            let message = panic.payload_as_str().unwrap_or("a value that is not text");
            CAUGHT.with_borrow_mut(|caught| *caught = format!("{message}{place}"));
        }));
    });
    let outer = CATCHING.replace(true);
    // What `work` leaves half done is dropped by the caller: a task that panicked is never stepped again.
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    result.map_err(|_| CAUGHT.with_borrow_mut(std::mem::take))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message_and_place() {
        let why = catch(|| panic!("key {} is odd", 7)).unwrap_err();
        assert!(why.starts_with("key 7 is odd at ") && why.contains("panics.rs:"), "{why}");
        assert_eq!(catch(|| 5), Ok(5));
    }
}
