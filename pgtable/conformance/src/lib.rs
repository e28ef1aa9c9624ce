//! What every [`pgtable::Format`] must satisfy, as tests that any crate runs on its own format.
//!
//! [`conformance!`] makes the tests of one format. The functions that it calls are public, for
//! fuzzers and for tests of special cases.
//!
//! | module | what it checks |
//! | --- | --- |
//! | [`words`] | the codec, word by word: encoding against decoding, shortcuts against the codec, records |
//!
//! Three formats of no crate of this workspace stand here as examples, and are tested like all
//! others: [`sv`], [`lpa`] and [`amd`].
//!
//! ```
//! use arch_x86::{Controls, Levels, LongMode};
//!
//! pgtable_conformance::conformance! {
//!     four_levels: LongMode::new(Levels::Four, Controls::new());
//!     five_levels: LongMode::new(Levels::Five, Controls::new());
//! }
//! # fn main() {}
//! ```
#![allow(clippy::missing_panics_doc, reason = "every function here panics where a rule is broken")]

pub mod amd;
pub mod lpa;
pub mod sv;
pub mod words;

pub use proptest;

/// Makes a module of tests for each line `name: format;`.
#[macro_export]
macro_rules! conformance {
    ($($name:ident: $format:expr;)+) => {
        $(
            mod $name {
                #[allow(unused_imports, reason = "the expression may need none")]
                use super::*;

                $crate::proptest::proptest! {
                    #![proptest_config($crate::words::config())]

                    /// The codec and the shortcuts, on words of any content.
                    #[test]
                    fn words(word in $crate::words::any_word(), level: u8, shift in 0u8..64) {
                        let at = ::pgtable::Position { level: ::pgtable::Level(level), shift };
                        $crate::words::word(&$format, word, at);
                    }

                    /// Leaves of every size, from any output on.
                    #[test]
                    fn leaves(output: u64, prot in 0u8..16) {
                        $crate::words::leaves_of(&$format, output, prot);
                    }

                    /// Addresses and offsets.
                    #[test]
                    fn offsets(address: u64) {
                        $crate::words::offsets(&$format, address);
                    }
                }
            }
        )+
    };
}
