use super::*;

/// What zlib 1.3 makes of kubectl's first two streams: the second block only makes sense after the first.
const ERROR_STREAM: &str = "800300010000003c0000000100000000000078f9e3c6a7c202253a48f95b044aab4c16064092b308125b99a0\
                            54cc68004e872545a989b9d0a2863515141100000000ffff";
const DATA_STREAM: &str = "800300010000001600000003000000000000224b2ba8944a04000000ffff";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn headers(kind: &str) -> Headers {
    [("port", "80"), ("requestid", "0"), ("streamtype", kind)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn frames(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next().unwrap()).collect()
}

#[test]
fn golden_bytes_in_pieces_of_any_size() {
    let mut all = [bytes(ERROR_STREAM), bytes(DATA_STREAM)].concat();
    all.extend(bytes("00000003 01000003 616263 00000001 01000000".replace(' ', "").as_str()));
    all.extend(bytes("8003000600000004 00000007".replace(' ', "").as_str()));
    all.extend(bytes("8003000300000008 00000003 00000005".replace(' ', "").as_str()));
    all.extend(bytes("8003000900000008 00000003 00010000".replace(' ', "").as_str()));
    all.extend(bytes("8003000700000008 00000000 00000000".replace(' ', "").as_str()));
    for size in [1, 2, 7, 50, all.len()] {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        for piece in all.chunks(size) {
            decoder.feed(piece);
            found.extend(frames(&mut decoder));
        }
        // Data comes in pieces as it arrived; put together again it is what was sent.
        let data: Vec<u8> = found
            .iter()
            .filter_map(|frame| match frame {
                Frame::Data { stream: 3, bytes, .. } => Some(bytes.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(data, b"abc");
        found.retain(|frame| !matches!(frame, Frame::Data { fin: false, .. }));
        let last = match &found[2] {
            Frame::Data { stream: 3, bytes, fin: true } => bytes.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            found,
            [
                Frame::SynStream { stream: 1, headers: headers("error") },
                Frame::SynStream { stream: 3, headers: headers("data") },
                Frame::Data { stream: 3, bytes: last, fin: true },
                Frame::Data { stream: 1, bytes: Bytes::new(), fin: true },
                Frame::Ping(7),
                Frame::Reset { stream: 3 },
                Frame::Other,
                Frame::GoAway,
            ],
            "{size}"
        );
    }
}

#[test]
fn what_is_written_can_be_read() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    for number in 0..300 {
        decoder.feed(&encoder.syn_stream(2 * number + 1, &headers("data")));
        decoder.feed(&encoder.syn_reply(2 * number + 1));
        assert_eq!(
            frames(&mut decoder),
            [Frame::SynStream { stream: 2 * number + 1, headers: headers("data") }, Frame::Other]
        );
    }
    let long: Headers = (0..90).map(|n| (format!("name{n}"), "v".repeat(600 + n))).collect();
    decoder.feed(&encoder.syn_stream(601, &long));
    assert_eq!(frames(&mut decoder), [Frame::SynStream { stream: 601, headers: long }]);
    decoder.feed(&[&data(5, b"x", true)[..], &ping(2), &reset(5, REFUSED_STREAM), &go_away(5)].concat());
    assert_eq!(
        frames(&mut decoder),
        [
            Frame::Data { stream: 5, bytes: Bytes::from_static(b"x"), fin: true },
            Frame::Ping(2),
            Frame::Reset { stream: 5 },
            Frame::GoAway
        ]
    );
    assert_eq!(ping(7)[..], bytes("800300060000000400000007"));
    assert_eq!(data(3, b"abc", true)[..], bytes("0000000301000003616263"));
}

#[test]
fn bad_frames_are_named() {
    let fault = |hex: &str| {
        let mut decoder = Decoder::new();
        decoder.feed(&bytes(hex));
        decoder.next().unwrap_err().to_string()
    };
    assert!(fault("8002000100000000").contains("not SPDY/3"));
    assert!(fault("8003000100ffffff").contains("16777215 bytes"));
    assert!(fault("800300010000000400000001").contains("too short"));
    assert!(
        fault("80030001 0000000c 00000001 00000000 0000 ffff".replace(' ', "").as_str()).contains("zlib")
    );
    // 1 MB of zeros in a few bytes.
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), true);
    let mut block = Vec::with_capacity(16 << 10);
    deflate.compress_vec(&vec![0; 1 << 20], &mut block, flate2::FlushCompress::Sync).unwrap();
    let mut body = vec![0; 10];
    body.extend(block);
    let mut decoder = Decoder::new();
    decoder.feed(&control(SYN_STREAM, &body));
    assert_eq!(decoder.next(), Err(Fault::Headers("too long")));
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..64), 0..20)) {
        let mut decoder = Decoder::new();
        decoder.feed(&bytes(ERROR_STREAM));
        for piece in pieces {
            decoder.feed(&piece);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }

    #[test]
    fn arbitrary_control_frames_never_panic(kind in 0u16..12, body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let mut decoder = Decoder::new();
        decoder.feed(&control(kind, &body));
        let _ = decoder.next();
    }
}
