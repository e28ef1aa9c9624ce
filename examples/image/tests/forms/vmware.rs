//! VMware's state files.

use memory_image::{Form, Image, Source};

use crate::{check, page};

/// A tag of VMware's state files: name, indices, value.
fn tag(file: &mut Vec<u8>, name: &str, indices: &[u32], value: &[u8], block: bool) {
    let size = if block { 63 } else { value.len() as u8 };
    file.push((indices.len() as u8) << 6 | size);
    file.push(name.len() as u8);
    file.extend(name.as_bytes());
    indices.iter().for_each(|index| file.extend(index.to_le_bytes()));
    if block {
        let length = value.len() as u64;
        file.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        file.extend(5_u16.to_le_bytes());
        file.extend([0; 5]);
    }
    file.extend(value);
}

/// Regions: first frame, frame in the file, frames.
fn vmware(regions: &[(u64, u64, u64)], memory: Option<&[u8]>, block: bool) -> Vec<u8> {
    let mut cpu = Vec::new();
    let cr: [u64; 5] = [0x8005_0033, 0, 0, 0x1234_5000, 0x20];
    tag(&mut cpu, "cpu:numVCPUs", &[], &1_u32.to_le_bytes(), false);
    if block {
        tag(&mut cpu, "CR64", &[0], &cr.map(u64::to_le_bytes).concat(), true);
    } else {
        for (n, value) in (0..).zip(cr) {
            tag(&mut cpu, "CR64", &[0, n], &value.to_le_bytes(), false);
        }
    }
    cpu.extend([0; 2]);
    let mut map = Vec::new();
    tag(&mut map, "regionsCount", &[], &(regions.len() as u32).to_le_bytes(), false);
    for (n, (frame, within, count)) in (0..).zip(regions) {
        for (name, value) in
            [("regionPPN", frame), ("regionPageNum", within), ("regionSize", count)]
        {
            tag(&mut map, name, &[n], &(*value as u32).to_le_bytes(), false);
        }
    }
    if let Some(memory) = memory {
        tag(&mut map, "Memory", &[0, 0], memory, true);
    }
    map.extend([0; 2]);
    let mut file = vec![0xd2, 0xbe, 0xd2, 0xbe, 8, 0, 0, 0, 2, 0, 0, 0];
    let data = 12 + 2 * 80;
    for (name, at) in [("cpu", data), ("memory", data + cpu.len())] {
        let mut group = name.as_bytes().to_vec();
        group.resize(64, 0);
        group.extend((at as u64).to_le_bytes());
        group.extend([0; 8]);
        file.extend(group);
    }
    [file, cpu, map].concat()
}

#[test]
fn vmware_with_its_state_beside_it_or_around_it() {
    let frames: Vec<u64> = (0..20).chain(1 << 20..(1 << 20) + 5).collect();
    let memory: Vec<u8> = frames.iter().flat_map(|frame| page(*frame)).collect();
    let regions = [(0, 0, 20), (1 << 20, 20, 5)];
    for block in [false, true] {
        let state = vmware(&regions, None, block);
        let both: [Vec<Box<dyn Source>>; 2] = [
            vec![Box::new(&memory[..]), Box::new(&state[..])],
            vec![Box::new(&state[..]), Box::new(&memory[..])],
        ];
        let around = vmware(&regions, Some(&memory), block);
        let images = both.map(|sources| Image::open_parts(sources, 0).unwrap());
        for image in images.into_iter().chain([Image::open(&around[..], 0).unwrap()]) {
            assert_eq!((image.form(), image.machine()), (Form::Vmware, Some(62)));
            check(&image, &frames, &[], &[20, 1 << 19, (1 << 20) + 5]);
            let cpu = image.notes().x86[0];
            assert_eq!((cpu.cr0, cpu.cr3, cpu.cr4), (0x8005_0033, 0x1234_5000, 0x20));
        }
        let alone = Image::open(&state[..], 0).unwrap_err().to_string();
        assert!(alone.contains("its .vmem must stand beside it"), "{alone}");
        for length in (0..around.len()).step_by(3001) {
            let _ = Image::open(&around[..length], 0);
        }
    }
}
