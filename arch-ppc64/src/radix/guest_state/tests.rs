use super::*;
extern crate std;
use std::vec::Vec;

const TREE: u64 = 0xc000_0000_0010_00ad;
const TABLE: u64 = 0x8000_0000_0013_0004;

fn buffer() -> Vec<u8> {
    let mut bytes = [0xaa; 64];
    let mut writer = Writer::new(&mut bytes).unwrap();
    writer.put(&PartitionTableElement::of_tree(TREE.into())).unwrap();
    writer.put(&ProcessTableElement::of_word(TABLE.into())).unwrap();
    let length = writer.finish();
    bytes[..length].to_vec()
}

/// As Linux writes it (`kvmhv_nestedv2_set_ptbl_entry`).
#[test]
fn both_tables_as_bytes() {
    let want = [
        &[0, 0, 0, 2][..],
        &[0, 5, 0, 24],
        &0x10_0000_u64.to_be_bytes(),
        &52_u64.to_be_bytes(),
        &0x1_0000_u64.to_be_bytes(),
        &[0, 6, 0, 16],
        &0x13_0000_u64.to_be_bytes(),
        &0x1_0000_u64.to_be_bytes(),
    ]
    .concat();
    assert_eq!(buffer(), want);
}

#[test]
fn words_there_and_back() {
    for bit in 0..64 {
        // A bit outside of base, RTS and RPDS has no place in an element.
        let tree = RadixRoot::from_bits(TREE ^ 1 << bit).with_hr(true).with_reserved_3(false);
        assert_eq!(PartitionTableElement::of_tree(tree).tree(), Some(tree), "bit {bit}");
        let word = ProcessTableWord::from_bits(TABLE ^ 1 << bit).with_gr(true);
        let back = ProcessTableElement::of_word(word).word();
        assert!(back.is_some(), "bit {bit}");
        assert_eq!(back == Some(word), !word.has_reserved_bits(), "bit {bit}");
    }
    assert!(PartitionTableElement::of_tree(TREE.into()).is_supported());
    assert!(!PartitionTableElement::of_tree((TREE ^ 1).into()).is_supported());
}

#[test]
fn numbers_without_an_encoding() {
    let tree = PartitionTableElement::of_tree(TREE.into());
    for (root, address_bits, root_bytes) in [
        (0x10_0001, 52, 1 << 16),
        (1 << 60, 52, 1 << 16),
        (0x10_0000, 30, 1 << 16),
        (0x10_0000, 63, 1 << 16),
        (0x10_0000, u64::MAX, 1 << 16),
        (0x10_0000, 52, 0),
        (0x10_0000, 52, 3 << 15),
        (0x10_0000, 52, 4),
        (0x10_0000, 52, 1 << 35),
        (0x10_0000, 52, 1 << 63),
    ] {
        let wrong = PartitionTableElement { root: Gpa::new(root), address_bits, root_bytes };
        assert_eq!(wrong.tree(), None, "{wrong:?}");
        assert_ne!(wrong, tree);
    }
    for (base, bytes) in [
        (0x13_0001, 1 << 16),
        (0x13_0800, 1 << 16),
        (1 << 60, 1 << 16),
        (0x13_0000, 0),
        (0x13_0000, 1 << 11),
        (0x13_0000, 3 << 12),
        (0x13_0000, 1 << 44),
        (0x13_0000, 1 << 63),
    ] {
        let wrong = ProcessTableElement { base: Gpa::new(base), bytes };
        assert_eq!(wrong.word(), None, "{wrong:?}");
    }
}

/// Every shorter buffer, and a header that promises anything: the loop has as many turns as
/// there are bytes, and ends with an error.
#[test]
fn hostile_buffers() {
    let whole = buffer();
    for length in 0..whole.len() {
        match Elements::of(&whole[..length]) {
            Err(error) => assert_eq!(error, BufferError::Short(length)),
            Ok(elements) => {
                let last = elements.last();
                assert_eq!(last, Some(Err(BufferError::Short(length))), "{length}");
            }
        }
    }
    let mut many = whole.clone();
    many[..4].fill(0xff);
    assert_eq!(Elements::of(&many).unwrap().count(), 3);
    let mut long = whole;
    long[6..8].fill(0xff);
    let short = BufferError::Short(long.len());
    assert_eq!(Elements::of(&long).unwrap().next(), Some(Err(short)));
    let length = BufferError::Length { id: 5, length: 23 };
    assert_eq!(PartitionTableElement::of(5, &[0; 23]), Err(length));
    assert_eq!(PartitionTableElement::of(6, &[0; 23]), Ok(None));
    let full = BufferError::Full { id: 6, wanted: 20, room: 19 };
    let mut bytes = [0; 4 + 28 + 19];
    let mut writer = Writer::new(&mut bytes).unwrap();
    writer.put(&PartitionTableElement::default()).unwrap();
    assert_eq!(writer.put(&ProcessTableElement::default()), Err(full));
    assert_eq!(writer.finish(), 4 + 28);
}

fn element(id: u16, value: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

fn output(elements: &[Vec<u8>]) -> Vec<u8> {
    [&(elements.len() as u32).to_be_bytes()[..], &elements.concat()].concat()
}

type Read = fn(Elements<'_>) -> Result<Option<HypervisorFault>, BufferError>;

/// Each interrupt has its own registers; one that is missing, or of another length, is noticed, and
/// others do not matter.
#[test]
fn storage_interrupts_of_a_run() {
    let doubleword = |id: u16, value: u64| element(id, &value.to_be_bytes());
    let registers = [
        doubleword(0xf000, 0xc000_0000_0000_0678),
        element(0xf001, &0x4200_0000_u32.to_be_bytes()),
        doubleword(0x1000, 7),
        doubleword(0xf003, 0x1_2000),
        doubleword(0x1021, 0xc000_0000_0000_1004),
        doubleword(0x1022, 0x8000_0000_1001_d033),
    ];
    let rows: [(Read, [usize; 3], &str); 2] = [
        (
            data_storage,
            [0, 1, 3],
            "HDSI 0xe00, HDSISR 0x42000000: no translation, store, HDAR 0xc000000000000678, ASDR 0x12000",
        ),
        (
            instruction_storage,
            [3, 4, 5],
            "HISI 0xe20, HSRR1 0x10010000: no-execute or guarded, entry not writable, HSRR0 0xc000000000001004, ASDR 0x12000",
        ),
    ];
    for (read, needed, words) in rows {
        let read = |bytes: &[u8]| read(Elements::of(bytes).unwrap());
        let fault = read(&output(&registers)).unwrap().unwrap();
        assert_eq!(std::format!("{fault}"), words);
        for missing in 0..registers.len() {
            let mut fewer = registers.to_vec();
            fewer.remove(missing);
            let found = read(&output(&fewer)).unwrap();
            assert_eq!(found.is_some(), !needed.contains(&missing), "{words}, without {missing}");
        }
    }
    for (id, length) in [(0xf000, 4), (0xf001, 8), (0xf003, 0), (0x1021, 9), (0x1022, 4)] {
        let wrong = output(&[element(id, &[0; 9][..length])]);
        let elements = Elements::of(&wrong).unwrap();
        assert_eq!(instruction_storage(elements), Err(BufferError::Length { id, length }));
    }
}
