//! What translates single addresses: the trait, and the forms of a walker that implement it.

use crate::access::Access;
use crate::address::{Address, Gva, Hpa};
use crate::fault::Fault;
use crate::format::{FirstStage, Format, Input, Output, SecondStage};
use crate::memory::ReadMemory;
use crate::space::Translation;
use crate::two_stage::{TwoStage, TwoStageFault};
use crate::walk::Walker;

/// What a [`Translate`] translates to.
pub type TranslatedOf<T> = Translation<<T as Translate>::Output, <T as Translate>::Attributes>;

/// Translates single addresses: a [`Walker`], both stages, or what a vCPU's registers say
/// (`pgtable_x86::PagingWalker`).
///
/// Implement it to reach bytes ([`GuestBytes`](crate::bytes::GuestBytes)) through a translation of
/// your own.
pub trait Translate {
    /// The addresses that it translates.
    type Input: Address;
    /// What it translates them to.
    type Output: Address;
    /// What a page says besides its address.
    type Attributes: Copy;
    /// Why an address does not translate.
    type Fault: core::error::Error;

    /// Translates one access.
    ///
    /// # Errors
    /// The fault that the access takes.
    fn translate(
        &self,
        input: Self::Input,
        access: Access,
    ) -> Result<TranslatedOf<Self>, Self::Fault>;
}

impl<T: Translate + ?Sized> Translate for &T {
    type Input = T::Input;
    type Output = T::Output;
    type Attributes = T::Attributes;
    type Fault = T::Fault;

    fn translate(&self, input: T::Input, access: Access) -> Result<TranslatedOf<T>, T::Fault> {
        (**self).translate(input, access)
    }
}

/// Accesses are judged; nothing is recorded.
impl<F: Format, M: ReadMemory<Output<F>>> Translate for Walker<F, M> {
    type Input = Input<F>;
    type Output = Output<F>;
    type Attributes = F::Attributes;
    type Fault = Fault<F>;

    fn translate(&self, input: Input<F>, access: Access) -> Result<TranslatedOf<Self>, Fault<F>> {
        Walker::translate(self, input, access)
    }
}

/// A [`Translate`] that can also record its accesses, as hardware does.
pub trait TranslateRecording: Translate {
    /// Translates one access, and marks the entries that it uses accessed (and dirty).
    ///
    /// # Errors
    /// The fault that the access takes.
    fn access(&self, input: Self::Input, access: Access)
    -> Result<TranslatedOf<Self>, Self::Fault>;
}

/// A [`Translate`] that can also serve a debugger.
pub trait TranslateUnjudged: Translate {
    /// Translates an address as if every right were granted, and records nothing.
    ///
    /// # Errors
    /// The fault for an address at which nothing is mapped.
    fn debug_translate(
        &self,
        input: Self::Input,
        access: Access,
    ) -> Result<TranslatedOf<Self>, Self::Fault>;
}

impl<F: Format, M: ReadMemory<Output<F>>> TranslateRecording for Walker<F, M> {
    fn access(&self, input: Input<F>, access: Access) -> Result<TranslatedOf<Self>, Fault<F>> {
        Walker::access(self, input, access)
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> TranslateUnjudged for Walker<F, M> {
    fn debug_translate(
        &self,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslatedOf<Self>, Fault<F>> {
        Walker::debug_translate(self, input, access)
    }
}

impl<T: TranslateRecording + ?Sized> TranslateRecording for &T {
    fn access(&self, input: T::Input, access: Access) -> Result<TranslatedOf<T>, T::Fault> {
        (**self).access(input, access)
    }
}

impl<T: TranslateUnjudged + ?Sized> TranslateUnjudged for &T {
    fn debug_translate(
        &self,
        input: T::Input,
        access: Access,
    ) -> Result<TranslatedOf<T>, T::Fault> {
        (**self).debug_translate(input, access)
    }
}

/// Accesses as hardware makes them: judged, and recorded as accessed and dirty in the entries that
/// they use. For instruction emulators and devices.
#[derive(Clone, Copy, Debug)]
pub struct Recording<T>(pub T);

impl<T: TranslateRecording> Translate for Recording<T> {
    type Input = T::Input;
    type Output = T::Output;
    type Attributes = T::Attributes;
    type Fault = T::Fault;

    fn translate(&self, input: T::Input, access: Access) -> Result<TranslatedOf<T>, T::Fault> {
        self.0.access(input, access)
    }
}

/// Accesses of a debugger: whatever is mapped is reached, no right is judged, nothing is recorded.
///
/// For walks of one stage, over memory at its output addresses. A [`TwoStage`] judges every access,
/// as its processor does: a debugger that has the guest's memory mapped needs the guest's stage
/// alone.
#[derive(Clone, Copy, Debug)]
pub struct Debugger<T>(pub T);

impl<T: TranslateUnjudged> Translate for Debugger<T> {
    type Input = T::Input;
    type Output = T::Output;
    type Attributes = T::Attributes;
    type Fault = T::Fault;

    fn translate(&self, input: T::Input, access: Access) -> Result<TranslatedOf<T>, T::Fault> {
        self.0.debug_translate(input, access)
    }
}

/// Accesses are judged by both stages; nothing is recorded. The page is the smaller of the two.
impl<F1, F2, M, const N: usize> Translate for TwoStage<'_, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    type Input = Gva;
    type Output = Hpa;
    type Attributes = (F1::Attributes, F2::Attributes);
    type Fault = TwoStageFault<F1, F2>;

    fn translate(
        &self,
        input: Gva,
        access: Access,
    ) -> Result<TranslatedOf<Self>, TwoStageFault<F1, F2>> {
        let both = TwoStage::translate(self, input, access)?;
        Ok(Translation {
            output: both.output(),
            shift: both.shift(),
            attributes: (both.stage1.attributes, both.stage2.attributes),
        })
    }
}
