//! Misuse that must not compile, and what the compiler then says: it has to tell what to do. After a change of words,
//! `TRYBUILD=overwrite cargo test -p millstream --test compile_fail` writes down what it says now.
//!
//! Where event time is wanted by what no type says, a trigger or an assigner, the plan is refused instead: `refusals.rs`.

#[test]
fn misuse_does_not_compile_and_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
