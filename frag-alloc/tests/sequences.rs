//! Random sequences against a model that is a set: what is alive, and who owns it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Error, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::{DirectMap, TableMemory};
use proptest::prelude::*;

const FRAMES: u32 = 12;

#[derive(Clone, Debug)]
enum Step {
    Take { cache: usize, shift: u8, front: bool },
    Give { which: prop::sample::Index, front: bool, clean: bool },
    GiveAgain { which: prop::sample::Index },
    GiveToAnother { which: prop::sample::Index },
    Trim { cache: usize },
    PutBack { cache: usize },
    Hold { which: prop::sample::Index },
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let shift = prop_oneof![5 => Just(8_u8), 2 => Just(12), 1 => Just(10), 1 => Just(15), 1 => Just(16), 1 => Just(17)];
    prop_oneof![
        8 => (0..2_usize, shift, any::<bool>()).prop_map(|(cache, shift, front)| Step::Take { cache, shift, front }),
        6 => (index(), any::<bool>(), any::<bool>()).prop_map(|(which, front, clean)| Step::Give { which, front, clean }),
        1 => index().prop_map(|which| Step::GiveAgain { which }),
        1 => index().prop_map(|which| Step::GiveToAnother { which }),
        1 => (0..2_usize).prop_map(|cache| Step::Trim { cache }),
        1 => (0..2_usize).prop_map(|cache| Step::PutBack { cache }),
        1 => index().prop_map(|which| Step::Hold { which }),
        1 => Just(Step::Release),
    ]
}

fn run(steps: Vec<Step>, policy: Policy) {
    let words: Vec<_> = (0..(FRAMES as usize) << 13).map(|_| AtomicU64::new(!0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0x20_0000));
    let frames =
        Frames::new(Region::new(memory, Hpa::new(0x20_0000), FRAMES, 16).expect("aligned"))
            .expect("small");
    let caches = [1, 2].map(|owner| Cache::new(&frames, Owner(owner), Kind::User, policy));
    let fronts = caches.each_ref().map(Local::new);
    let mut alive: BTreeMap<Hpa, (usize, u8)> = BTreeMap::new();
    let mut held = Vec::new();
    for step in steps {
        let nth = |which: prop::sample::Index| {
            (!alive.is_empty())
                .then(|| alive.iter().nth(which.index(alive.len())).map(|(k, v)| (*k, *v)))
                .flatten()
        };
        match step {
            Step::Take { cache, shift, front } => {
                let taken =
                    if front { fronts[cache].take(shift) } else { caches[cache].take(shift) };
                match taken {
                    Ok(table) => {
                        assert_eq!(table.get() % (1 << shift), 0);
                        let end = table.get() + (1 << shift);
                        if let Some((before, (_, size))) = alive.range(..Hpa::new(end)).next_back()
                        {
                            assert!(
                                before.get() + (1 << size) <= table.get(),
                                "{table} overlaps {before}"
                            );
                        }
                        let words = memory.table(table, 1 << (shift - 3)).expect("within");
                        assert!(
                            words.iter().all(|word| word.load(Ordering::Relaxed) == 0),
                            "{table} is not zeroed"
                        );
                        words.iter().for_each(|word| word.store(table.get(), Ordering::Relaxed));
                        alive.insert(table, (cache, shift));
                    }
                    Err(error) => assert_eq!(error, Error::Exhausted { shift }),
                }
            }
            Step::Give { which, front, clean } => {
                let Some((table, (cache, shift))) = nth(which) else { continue };
                for word in memory.table(table, 1 << (shift - 3)).expect("within") {
                    assert_eq!(
                        word.load(Ordering::Relaxed),
                        table.get(),
                        "somebody wrote to {table}"
                    );
                    word.store(if clean { 0 } else { !0 }, Ordering::Relaxed);
                }
                let contents = if clean { Contents::Zeroed } else { Contents::Stale };
                let given = if front {
                    fronts[cache].give(table, shift, contents)
                } else {
                    caches[cache].give(table, shift, contents)
                };
                assert_eq!(given, Ok(()));
                alive.remove(&table);
                let again = caches[cache].give(table, shift, contents);
                assert!(matches!(again, Err(Error::NotLive { .. })), "{again:?}");
            }
            Step::GiveAgain { which } => {
                let address =
                    Hpa::new(0x20_0000 + (which.index(FRAMES as usize * 256) as u64) * 256);
                if !alive.contains_key(&address) {
                    assert!(caches[0].give(address, 8, Contents::Zeroed).is_err());
                    assert!(fronts[1].give(address, 8, Contents::Zeroed).is_err());
                }
            }
            Step::GiveToAnother { which } => {
                let Some((table, (cache, shift))) = nth(which) else { continue };
                assert!(caches[1 - cache].give(table, shift, Contents::Stale).is_err());
                assert!(caches[cache].give(table, shift ^ 1, Contents::Stale).is_err());
            }
            Step::Trim { cache } => drop(caches[cache].trim().expect("sound")),
            Step::PutBack { cache } => fronts[cache].put_back().expect("sound"),
            Step::Hold { which } => {
                let Some((table, (cache, shift))) = nth(which) else { continue };
                let frame = frames.try_get(table).expect("within").expect("alive");
                let what = frame.table_frame().expect("alive");
                assert_eq!((what.owner, what.shift), (Owner(cache as u32 + 1), shift));
                assert_eq!(frame.table_at(table), Some(table));
                held.push(frame);
            }
            Step::Release => drop(held.pop()),
        }
        assert_eq!(frames.census().live as usize, alive.len());
    }
    drop(held);
    drop(fronts);
    for cache in &caches {
        cache.close().expect("sound");
    }
    // With everything that is not alive returned, the counters are the tables.
    assert_eq!(frames.census().fragments as usize, alive.len());
    for (table, (cache, _)) in alive {
        frames.give(table, Owner(cache as u32 + 1)).expect("alive");
    }
    assert!(frames.census().all_home(), "{:?}", frames.census());
    assert_eq!(frames.source().available(), FRAMES);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_the_books_with_reuse(steps in prop::collection::vec(step(), 1..300)) {
        run(steps, Policy::Reuse);
    }

    #[test]
    fn any_sequence_keeps_the_books_as_linux_does(steps in prop::collection::vec(step(), 1..300)) {
        run(steps, Policy::Linux);
    }
}
