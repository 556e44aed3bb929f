//! One DNS question over UDP.

use super::{Attempt, kind, now_us, target};
use hickory_server::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use std::net::{IpAddr, SocketAddr};

/// What an answer may be long.
const PAYLOAD_BYTES: u16 = 1232;

/// Asks `server`, or the first resolver of this place, for records of a name that is taken as absolute.
pub(super) async fn ask(
    name: &str,
    kind_of_record: &str,
    server: Option<SocketAddr>,
) -> Result<Attempt, Attempt> {
    let failed = |error: std::io::Error| Attempt::failed(kind(&error));
    let bad = |_| Attempt::failed(format!("no DNS question: {name}/{kind_of_record}"));
    let mut absolute = Name::from_ascii(name).map_err(bad)?;
    absolute.set_fqdn(true);
    let record_type: RecordType = kind_of_record
        .parse()
        .map_err(|_| Attempt::failed(format!("no type of DNS record: {kind_of_record}")))?;
    let server = match server {
        Some(server) => server,
        None => first_resolver().map_err(failed)?,
    };
    let id = u16::try_from(now_us() % u64::from(u16::MAX)).unwrap_or(1);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(absolute, record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_BYTES);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(|error| Attempt::failed(error.to_string()))?;
    let socket = target::udp_socket(server).await.map_err(failed)?;
    socket.send(&bytes).await.map_err(failed)?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if answer.metadata.id != id {
            continue;
        }
        if answer.metadata.truncation {
            return Err(Attempt::failed("truncated"));
        }
        let code = answer.metadata.response_code;
        let mut records: Vec<String> =
            answer.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
        records.sort();
        return Ok(Attempt {
            ok: code == ResponseCode::NoError,
            status: Some(code.into()),
            records,
            ..Attempt::default()
        });
    }
}

fn first_resolver() -> std::io::Result<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf")?;
    let mut words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let address = words.find_map(|rest| rest.trim().parse::<IpAddr>().ok());
    address
        .map(|address| SocketAddr::new(address, 53))
        .ok_or_else(|| std::io::Error::other("/etc/resolv.conf names no server"))
}
