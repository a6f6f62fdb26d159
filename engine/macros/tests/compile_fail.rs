//! Misuse of the engine that must not compile, and what the compiler then says: it has to tell what to do. After a change of
//! words, `TRYBUILD=overwrite cargo test -p millstream-macros --test compile_fail` writes down what it says now.
//!
//! Where event time is wanted by what no type says, a trigger or an assigner, the plan is refused instead: `refusals.rs`.
//!
//! It is here because each case is compiled with all that this package needs: the engine's own tests need an object store's
//! client, which takes longer than all of the cases.

#[test]
fn misuse_does_not_compile_and_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
