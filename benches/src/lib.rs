//! Criterion benches of the small parts, in `benches/`; this library is empty.
//!
//! | bench | measures | against |
//! |---|---|---|
//! | `table` | a keyed update | a flat prefetched table that tracks nothing |
//! | `snapshot` | the moment of a barrier, and a changed line on its way to the disk | |
//! | `ring` | bytes from core to core through a lane | plain stores |
//! | `exchange_links` | bytes from core to core through links, over loopback TCP | hand-written loops on io_uring |
//!
//! The whole query is the harness's: `harness limit --compare`.
