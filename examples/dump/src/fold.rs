//! Ranges that come again and again, with the same physical pages at regular distances, as one.
//!
//! Linux on x86-64 maps one page of its espfix stacks 65,536 times: a list of them hides the rest.

use std::ops::ControlFlow;

use super::range::{Range, Repeats};

/// From how many on they are shown as one.
const LEAST: u64 = 4;

/// A visitor that folds, in front of another one.
pub struct Fold<V> {
    visit: V,
    /// The ranges that are held back: the first of them, how often it came, the distance.
    held: Option<(Range, u64, u64)>,
}

impl<V: FnMut(Range) -> ControlFlow<()>> Fold<V> {
    /// In front of `visit`.
    pub fn new(visit: V) -> Self {
        Self { visit, held: None }
    }

    /// Takes the next range of a list.
    pub fn take(&mut self, range: Range) -> ControlFlow<()> {
        if let Some((first, count, stride)) = &mut self.held {
            let apart = range.va.zip(first.va).map(|(va, start)| va.wrapping_sub(start));
            let same = first.pa.is_some() && Range { va: first.va, ..range.clone() } == *first;
            match apart {
                Some(apart) if same && *count == 1 && apart > 0 => {
                    (*count, *stride) = (2, apart);
                    return ControlFlow::Continue(());
                }
                Some(apart) if same && apart == stride.wrapping_mul(*count) => {
                    *count += 1;
                    return ControlFlow::Continue(());
                }
                _ => {}
            }
        }
        self.finish()?;
        self.held = Some((range, 1, 0));
        ControlFlow::Continue(())
    }

    /// Shows what is still held back.
    pub fn finish(&mut self) -> ControlFlow<()> {
        let Some((first, count, stride)) = self.held.take() else {
            return ControlFlow::Continue(());
        };
        if count >= LEAST {
            return (self.visit)(Range { repeats: Some(Repeats { count, stride }), ..first });
        }
        for n in 0..count {
            let va = first.va.map(|va| va.wrapping_add(n * stride));
            (self.visit)(Range { va, ..first.clone() })?;
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::Rights;

    type Seen = (u64, u64, Option<(u64, u64)>);

    fn fold(vas: &[(u64, u64)]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut fold = Fold::new(|range: Range| {
            let repeats = range.repeats.map(|it| (it.count, it.stride));
            seen.push((range.va.unwrap(), range.pa.unwrap(), repeats));
            ControlFlow::Continue(())
        });
        for &(va, pa) in vas {
            let range = Range::mapped(Some(va), pa, 4096, Rights::default(), String::new());
            assert!(fold.take(range.of_bytes(4096)).is_continue());
        }
        assert!(fold.finish().is_continue());
        seen
    }

    #[test]
    fn regular_aliases_are_one() {
        let aliases: Vec<_> = (0..1000).map(|n| (0x1_0000 * n, 7)).collect();
        assert_eq!(fold(&aliases), [(0, 7, Some((1000, 0x1_0000)))]);
        assert_eq!(
            fold(&[(0, 7), (16, 7), (32, 7), (48, 8), (64, 7), (80, 7)]),
            [
                (0, 7, None),
                (16, 7, None),
                (32, 7, None),
                (48, 8, None),
                (64, 7, None),
                (80, 7, None)
            ]
        );
        assert_eq!(
            fold(&[(0, 7), (16, 7), (32, 7), (48, 7), (65, 7)]),
            [(0, 7, Some((4, 16))), (65, 7, None)]
        );
        assert!(fold(&[]).is_empty());
    }
}
