//! Every form of reading a tree says what one translation and one walk say.

use std::ops::ControlFlow;

use pgtable::format::{Entry, Format, Groups, Input};
use pgtable::walk::LeafOf;
use pgtable::{Access, Address, AddressSpace, low_bits};

use crate::tree::FlatTree;

/// Batches and every form of iteration say what one translation and one walk say.
///
/// # Panics
/// If one of them says anything else.
pub fn forms<F: Format>(flat: &FlatTree<'_, F>) {
    flat.machine.watch([]);
    many_at_once(flat);
    let leaves = iterations(flat);
    tables(flat, &leaves);
    traces(flat);
}

fn many_at_once<F: Format>(flat: &FlatTree<'_, F>) {
    let walker = flat.space.walker();
    let start = flat.space.range().0.get();
    let mut inputs: Vec<_> =
        flat.model.keys().map(|&page| Input::<F>::new(page + 3)).step_by(7).take(90).collect();
    let beyond = (0..10).map(|hole| Input::<F>::new(start + hole * 0x1234_5000 + 1));
    inputs.extend(beyond.chain([Input::<F>::new(u64::MAX >> 1), Input::<F>::new(1 << 60)]));
    let accesses = [Access::READ, Access::WRITE.by_user(), Access::FETCH];
    let mut anchored = flat.space.anchored();
    for access in accesses {
        let mut outputs = vec![None; inputs.len()];
        let translated = walker.translate_batch(&inputs, access, &mut outputs);
        assert_eq!(translated, outputs.iter().flatten().count());
        for (&input, &output) in inputs.iter().zip(&outputs) {
            let one = walker.translate(input, access).ok().map(|one| one.output);
            assert_eq!(output, one, "{input}");
        }
    }
    // One access after the other, here and at the same place of another part of the tree: what is
    // remembered does not serve the wrong part.
    for &input in &inputs {
        for access in accesses {
            for input in [input, Input::<F>::new(input.get() ^ 1 << 40)] {
                let one = walker.translate(input, access);
                assert_eq!(anchored.translate(input, access), one, "{access} at {input}");
            }
        }
    }
}

/// The leaves, of which every form of iteration must tell.
fn iterations<F: Format>(flat: &FlatTree<'_, F>) -> Vec<LeafOf<F>> {
    let walker = flat.space.walker();
    let (start, bytes) = flat.space.range();
    let leaves: Result<Vec<_>, _> = walker.iter(start, bytes).expect("the space").collect();
    let leaves = leaves.expect("nothing is malformed");
    let mut visited = Vec::new();
    let flow = walker.for_each(start, bytes, |leaf| {
        visited.push(leaf);
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(flow, Ok(ControlFlow::Continue(())));
    assert_eq!(leaves, visited);

    let mut coalesced = Vec::new();
    let flow = walker.for_each_coalesced(start, bytes, |mapping| {
        coalesced.push(mapping);
        ControlFlow::<()>::Continue(())
    });
    assert_eq!(flow, Ok(ControlFlow::Continue(())));
    let flat = |mappings: &[LeafOf<F>]| {
        let mut pages = Vec::new();
        for m in mappings {
            for page in (0..m.bytes).step_by(1 << m.shift) {
                pages.push((m.input.get() + page, m.output.get() + page, m.attributes));
            }
        }
        pages
    };
    assert_eq!(flat(&coalesced), flat(&leaves));
    for pair in coalesced.windows(2) {
        let joins = pair[0].input.get() + pair[0].bytes == pair[1].input.get()
            && pair[0].output.get() + pair[0].bytes == pair[1].output.get()
            && (pair[0].shift, pair[0].attributes) == (pair[1].shift, pair[1].attributes);
        assert!(!joins, "{pair:?} should be one");
    }
    leaves
}

/// The tables themselves: as many as the allocator has given out, and their leaves are the leaves.
fn tables<F: Format>(flat: &FlatTree<'_, F>, leaves: &[LeafOf<F>]) {
    let walker = flat.space.walker();
    let (start, bytes) = flat.space.range();
    let (mut tables, mut mapped) = (0, 0);
    let flow = walker.for_each_table(|table| {
        tables += 1;
        let (mut entries, mut empty) = (0, true);
        for entry in table.entries() {
            entries += 1;
            empty &= entry.entry == Entry::Absent;
            match entry.entry {
                Entry::Leaf { .. } if entry.input.get() - start.get() < bytes => {
                    mapped += table.at().size();
                }
                Entry::Malformed => panic!("{entry:?}"),
                Entry::Leaf { .. } | Entry::Absent | Entry::Table { .. } => {}
            }
        }
        assert_eq!(entries, 1 << table.width());
        assert!(!empty || table.address() == walker.root(), "an empty table stayed");
        ControlFlow::<()>::Continue(())
    });
    assert!(flow.is_continue());
    assert_eq!(tables, flat.machine.tables.live());
    assert_eq!(mapped, leaves.iter().map(|leaf| leaf.bytes).sum::<u64>(), "bytes in tables");
    let first = walker.for_each_table(|table| ControlFlow::Break(table.address()));
    assert_eq!(first, ControlFlow::Break(walker.root()));
}

/// Each walk's trace ends at what the address translates to.
fn traces<F: Format>(flat: &FlatTree<'_, F>) {
    let Some((&page, &(output, _))) = flat.model.first_key_value() else { return };
    let trace = flat.space.walker().trace(Input::<F>::new(page));
    let Some(last) = trace.last() else { panic!("nothing on the way to {page:#x}") };
    let Entry::Leaf { output: base, .. } = last.entry else { panic!("{trace:?}") };
    let group = match F::GROUPS {
        // Every entry has the address of the whole.
        Groups::Alike => flat.space.format().group(last.word, last.at),
        Groups::None | Groups::Apart => 0,
    };
    assert_eq!(base.get() + (page & low_bits(last.at.shift + group)), output, "{trace:?}");
    let descends = |pair: &[pgtable::walk::TraceEntry<F>]| pair[0].at.level > pair[1].at.level;
    assert!(trace.windows(2).all(descends), "{trace:?}");
}
