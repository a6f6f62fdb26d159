//! A record's road, in the order it is taken.

pub mod source;
pub mod then;
pub(crate) mod deal;
pub mod read;
pub mod rows;
pub mod dense;
pub mod chain;
pub mod fallible;
pub mod union;
pub mod watermarks;
pub mod event_time;
pub mod has_time;
pub mod pacing;
pub mod ingestion;
pub mod lookup;
pub mod aggregate;
pub mod keyed;
pub(crate) mod combine;
pub(crate) mod exchange;
pub(crate) mod merge;
pub mod window;
pub mod running;
pub mod stateful;
pub mod timers;
pub mod side;
pub mod fork;
pub(crate) mod rebalance;
pub(crate) mod order;
pub(crate) mod operate;
pub mod process;
pub(crate) mod processor;
pub mod connect;
pub mod broadcast;
pub mod join;
pub mod requests;
pub mod dedup;
pub mod sink;
#[cfg(test)]
mod trial;

/// Asks for the line that holds `at`, ahead of its use.
#[inline(always)]
pub(crate) fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing as far as the program can tell, and `at` is a valid address besides.
    #[expect(unsafe_code, reason = "a hint to the cache")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
