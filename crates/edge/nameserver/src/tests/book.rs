//! What RFC 1035, 6891 and 8906 ask of every server: versions, sizes, operations, numbers of questions.

use super::*;

/// Sends bytes as they are; the header and the length of what comes back.
async fn raw(server: &Server, bytes: &[u8]) -> ([u8; 12], usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server.address).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    (*buffer[..length].first_chunk().unwrap(), length)
}

#[tokio::test]
async fn versions_operations_and_several_questions_are_answered_by_the_book() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records("cluster.local"));
    let plain = question("web.default.svc.cluster.local.", RecordType::A);
    let mut next = plain.clone();
    let mut edns = Edns::new();
    edns.set_version(1).set_max_payload(1232);
    next.set_edns(edns);
    let answer = server.udp(&next).await;
    // 16 is BADVERS, and BADSIG where there is a signature.
    assert_eq!((u16::from(answer.metadata.response_code), answer.answers.len()), (16, 0));
    assert_eq!(answer.edns.unwrap().version(), 0);
    // A size below 512 counts as 512, one above ours as ours.
    for (size, all) in [(1, false), (512, false), (1231, true), (u16::MAX, true)] {
        let mut sized = question("many.default.svc.cluster.local.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        sized.set_edns(edns);
        let answer = server.udp(&sized).await;
        assert_eq!((answer.metadata.truncation, answer.answers.len() == 60), (!all, all), "{size}");
        assert!(!answer.answers.is_empty() && answer.edns.is_some());
    }
    let (mut operation, mut twice) = (plain.to_vec().unwrap(), plain.clone());
    for code in 1..16 {
        operation[2] = operation[2] & 0x87 | code << 3;
        let (header, _) = raw(&server, &operation).await;
        assert_eq!(
            (header[2] & 0xf8, header[3] & 0xf),
            (0x80 | code << 3, 4),
            "operation {code}: not implemented"
        );
    }
    twice.add_query(plain.queries[0].clone());
    let (header, length) = raw(&server, &twice.to_vec().unwrap()).await;
    assert_eq!((header[3] & 0xf, &header[6..8]), (1, &[0, 0][..]), "a format error, {length} bytes");
    server.stop().await;
}

#[tokio::test]
async fn by_tcp_as_many_addresses_come_as_there_is_room_for() {
    let server = Server::start("127.0.0.0/8", vec![]);
    server.handle.publish(records_of("cluster.local", 5000));
    let question = question("many.default.svc.cluster.local.", RecordType::A);
    let answer = &server.tcp(&[&question]).await[0];
    assert!(!answer.metadata.truncation && answer.answers.len() > 1000, "{}", answer.answers.len());
    server.stop().await;
}
