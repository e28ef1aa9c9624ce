//! What every [`pgtable::format::Format`] must satisfy, as tests that any crate runs on its own
//! format.
//!
//! [`conformance!`] makes the tests of one format. The functions that it calls are public, for
//! fuzzers and for tests of special cases.
//!
//! | module | what it checks |
//! | --- | --- |
//! | [`words`] | the codec, word by word: encoding against decoding, shortcuts against the codec, records |
//! | [`tree`], [`reading`], [`copies`] | every verb of a tree against a flat map, with an allocator that runs out; forms of iteration; copies |
//! | [`shared`], [`locked`] | the writers of a shared tree, one at a time |
//! | [`writers`], [`readers`] | writers, and readers beside a writer, on threads |
//! | [`records`], [`protected`] | accessed and dirty, harvested; of pages that were write-protected before |
//! | [`rights`] | what rights say of a page, and which pages every verb takes |
//! | [`mod@second_stage`] | the owner of a second stage, against a list of leaves |
//! | [`keep`] | tables that stay though they are empty |
//! | [`hostile`] | tables that others write, and memory that refuses |
//! | [`loads`] | how many words operations ask for |
//! | [`log`](mod@log) | every store to a table is told to the memory (checked by each test with a [`machine`]) |
//! | [`machine`], [`mmu`] | invalidation: an emulated MMU accesses the tree in the middle of each verb, caches what it may, and must never be left with what is no longer true |
//! | [`faults`] | the kit itself: of each verb, an invalidation that is not carried out is found |
//!
//! Formats of no crate of this workspace stand here as examples, and are tested like all others:
//! [`sv`], [`lpa`], [`amd`], [`srmmu`] and [`deep`].
//!
//! ```
//! use pgtable_conformance::sv::Sv;
//!
//! pgtable_conformance::conformance! {
//!     sv39: Sv::SV39;
//!     sv48: Sv::SV48;
//! }
//! # fn main() {}
//! ```
#![allow(clippy::missing_panics_doc, reason = "every function here panics where a rule is broken")]

mod absent;
pub mod amd;
mod caches;
pub mod cases;
pub mod copies;
pub mod deep;
pub mod faults;
pub mod flat;
pub mod hostile;
pub mod keep;
pub mod loads;
pub mod locked;
pub mod log;
pub mod lpa;
pub mod machine;
pub mod memory;
pub mod mmu;
pub mod ops;
#[doc(hidden)]
pub mod prelude;
pub mod protected;
pub mod readers;
pub mod reading;
pub mod records;
pub mod rights;
pub mod second_stage;
pub mod shared;
pub mod srmmu;
pub mod sv;
pub mod tlb;
pub mod tree;
pub mod words;
pub mod writers;

pub use proptest;

/// Makes a test for each line `name: format;` of what the owner of a second stage of that format
/// does ([`second_stage::random`]).
#[macro_export]
macro_rules! second_stage {
    ($($name:ident: $format:expr;)+) => {
        $(
            /// The verbs of the second stage's owner, against a list of leaves.
            #[test]
            fn $name() {
                $crate::second_stage::random($format, $crate::mmu::Caches::STRICT, 64);
            }
        )+
    };
}

/// Makes a module of tests for each line `name: format;` or `name: format, caches;`.
///
/// `caches` is a [`Caches`](mmu::Caches) and says what the emulated MMU may hold. Without it the
/// MMU is [the strictest](mmu::Caches::STRICT).
#[macro_export]
macro_rules! conformance {
    ($($name:ident: $format:expr $(, $caches:expr)?;)+) => {
        $(
            mod $name {
                #[allow(unused_imports, reason = "the expression may need none")]
                use super::*;

                const CACHES: $crate::mmu::Caches =
                    $crate::caches!($($caches)?);

                $crate::codec_tests!($format);

                /// Verbs of a tree beside an MMU, against a flat map.
                #[test]
                fn verbs() {
                    $crate::tree::random($format, CACHES, 64);
                }

                /// A writer of a shared tree, alone.
                #[test]
                fn alone() {
                    $crate::shared::alone($format, CACHES, 32);
                }

                /// Verbs under one lock of a shared tree.
                #[test]
                fn locked() {
                    $crate::locked::random($format, CACHES, 24);
                }

                /// Accessed and dirty.
                #[test]
                fn records() {
                    $crate::records::random($format, CACHES, 32);
                }

                /// Records of pages that lose the right to write before they are harvested.
                #[test]
                fn protected() {
                    $crate::protected::kept($format, CACHES);
                }

                /// Rights alone change.
                #[test]
                fn case_b10_protect_changes_rights_alone() {
                    $crate::rights::alone($format, CACHES);
                }

                /// Whole base pages, in leaves of any size.
                #[test]
                fn case_b13_whole_base_pages() {
                    $crate::rights::whole($format, CACHES);
                }

                /// Empty tables that stay.
                #[test]
                fn keep() {
                    $crate::keep::random($format, CACHES, 64);
                }

                /// Many writers on threads.
                #[test]
                fn writers() {
                    $crate::writers::together($format, 5000);
                }

                /// Readers on threads beside a writer.
                #[test]
                fn readers() {
                    $crate::readers::beside_a_writer($format, 1000);
                }

                /// Tables that others write, and memory that refuses.
                #[test]
                fn hostile() {
                    $crate::hostile::random($format, 64);
                }

                /// Words of table memory that operations ask for.
                #[test]
                fn loads() {
                    $crate::loads::bounded($format);
                }

                /// Snapshots and rebuilt trees.
                #[test]
                fn copies() {
                    $crate::copies::random($format, CACHES, 16);
                }

                /// The kit finds what an invalidation leaves out.
                #[test]
                fn faults() {
                    $crate::faults::found($format);
                }

                /// Promoting and splitting are inverses.
                #[test]
                fn there_and_back() {
                    $crate::copies::there_and_back($format, CACHES);
                }
            }
        )+
    };
}

/// Makes a module of tests for each line `name: format;`, as [`conformance!`] does, but only those
/// of words: for values of a format whose controls change how words are read, and not how trees are
/// built.
#[macro_export]
macro_rules! codec {
    ($($name:ident: $format:expr;)+) => {
        $(
            mod $name {
                #[allow(unused_imports, reason = "the expression may need none")]
                use super::*;

                $crate::codec_tests!($format);
            }
        )+
    };
}

/// The caches of a line of [`conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! caches {
    () => {
        $crate::mmu::Caches::STRICT
    };
    ($caches:expr) => {
        $caches
    };
}

/// The tests of one format's words.
#[doc(hidden)]
#[macro_export]
macro_rules! codec_tests {
    ($format:expr) => {
        /// The codec and the shortcuts, on words of any content.
        #[test]
        fn words() {
            $crate::words::random_words(&$format);
        }

        /// Leaves of every size, from any output on.
        #[test]
        fn leaves() {
            $crate::words::random_leaves(&$format);
        }

        /// Attributes made of rights alone.
        #[test]
        fn case_b11_rights_are_of_ordinary_memory() {
            $crate::rights::ordinary($format);
        }

        /// Addresses and offsets.
        #[test]
        fn offsets() {
            $crate::words::random_offsets(&$format);
        }
    };
}
