//! A stage of translation is a type that names its input and its output.
//!
//! The tables of a stage stand in its OUTPUT space: a guest's own tables are found by
//! guest-physical addresses, a hypervisor's second-stage tables by host-physical ones. So the
//! output of stage 1 is the input of stage 2, which composes, and nothing else does.

use crate::address::{Address, Gpa, Gva, Hpa};

/// One stage of translation.
pub trait Stage: 'static {
    /// What goes in.
    type Input: Address;
    /// What comes out; also the space in which the stage's tables stand.
    type Output: Address;
    /// The name that faults print.
    const NAME: &'static str;
}

/// Guest virtual to guest physical: the guest's own tables (POWER: process-scoped).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage1 {}

impl Stage for Stage1 {
    type Input = Gva;
    type Output = Gpa;
    const NAME: &'static str = "stage 1";
}

/// Guest physical to host physical: the hypervisor's tables (POWER: partition-scoped; EPT, NPT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage2 {}

impl Stage for Stage2 {
    type Input = Gpa;
    type Output = Hpa;
    const NAME: &'static str = "stage 2";
}
