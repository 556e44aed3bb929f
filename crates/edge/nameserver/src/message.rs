//! Messages: bytes of a question in, bytes of an answer out.
//!
//! Invariant: a datagram is never answered with more than the client said it takes, nor with more than
//! [`PAYLOAD_BYTES`]; what does not fit is left out and marked truncated, and the client comes back over TCP. One that
//! does not (musl before 1.2.4) has some of the addresses. What does not fit even there is left out.

use crate::{Counters, Shared, forward::Forwarded, loops};
use hickory_server::{
    net::xfer::Protocol,
    proto::{
        op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
        rr::{
            DNSClass, Name, RData, Record, RecordType,
            rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
        },
        serialize::binary::BinEncoder,
    },
    server::Request,
    zone_handler::MessageResponseBuilder,
};
use minisvc_dns::{Answer, Data, Owner, Question, Reply, TTL_SECONDS};
use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

/// Largest datagram that is sent: no fragments on any usual path (DNS flag day 2020).
const PAYLOAD_BYTES: u16 = 1232;
/// Largest datagram for a client that names no size.
const PAYLOAD_BYTES_PLAIN: u16 = 512;

/// Bit of a header's third byte.
const TRUNCATED: u8 = 0x02;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What to do next about a question.
pub(crate) enum Step {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask the node's resolvers, then send what [`forward`] returns.
    Forward(Box<Forwarding>),
    /// Say nothing: it was no question.
    Drop,
}

/// A question on its way to the node's resolvers.
pub(crate) struct Forwarding {
    request: Request,
    transport: Transport,
    /// Aliases that led out of the cluster.
    answers: Vec<Record>,
    name: Name,
    kind: RecordType,
}

/// The sections of an answer.
#[derive(Default)]
struct Sections {
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

/// Reads a question and answers it if that needs no waiting.
pub(crate) fn step(shared: &Shared, raw: Vec<u8>, source: SocketAddr, transport: Transport) -> Step {
    let Some(header) = raw.first_chunk::<12>().copied() else { return Step::Drop };
    let is_response = header[2] & 0x80 != 0;
    if is_response || source.port() == 0 {
        // Answering answers would let two servers talk for ever.
        return Step::Drop;
    }
    Counters::count(&shared.counters.questions);
    let id = u16::from_be_bytes([header[0], header[1]]);
    if !shared.allows(source.ip()) {
        Counters::count(&shared.counters.refused);
        return bare(id, ResponseCode::Refused);
    }
    let protocol = if transport == Transport::Udp { Protocol::Udp } else { Protocol::Tcp };
    let Ok(request) = Request::from_bytes(raw, source, protocol) else {
        return bare(id, ResponseCode::FormErr);
    };
    let reply = |code| encoded(&request, transport, metadata(shared, &request, code), &Sections::default());
    if request.metadata.op_code != OpCode::Query {
        return reply(ResponseCode::NotImp);
    }
    if request.version() > 0 {
        return reply(ResponseCode::BADVERS);
    }
    let Ok(info) = request.request_info() else { return reply(ResponseCode::FormErr) };
    if !matches!(info.query.query_class(), DNSClass::IN | DNSClass::ANY) {
        Counters::count(&shared.counters.refused);
        return reply(ResponseCode::Refused);
    }
    let labels: Vec<&[u8]> = info.query.name().iter().collect();
    if loops::is_ours(shared, &labels) {
        shared.in_circle.store(true, Relaxed);
        return reply(ResponseCode::Refused);
    }
    let Some(records) = shared.records.load_full() else {
        Counters::count(&shared.counters.failed);
        return reply(ResponseCode::ServFail);
    };
    let kind = info.query.query_type();
    match minisvc_dns::answer(&records, &Question { labels: &labels, kind: kind_of(kind) }) {
        Answer::Refused => {
            Counters::count(&shared.counters.refused);
            reply(ResponseCode::Refused)
        }
        Answer::Forward => {
            let name = info.query.original().name().clone();
            forwarding(shared, request, transport, Vec::new(), name, kind)
        }
        Answer::Reply(answer) => {
            let Some(mut sections) = sections(info.query.original().name(), &answer) else {
                Counters::count(&shared.counters.failed);
                return reply(ResponseCode::ServFail);
            };
            if let Some(target) = answer.forward.as_deref().and_then(name_of) {
                return forwarding(shared, request, transport, sections.answers, target, kind);
            }
            spread(&mut sections.answers, id);
            Counters::count(&shared.counters.answered);
            let code = if answer.no_such_name { ResponseCode::NXDomain } else { ResponseCode::NoError };
            if answer.no_such_name {
                Counters::count(&shared.counters.no_such_name);
            }
            let mut metadata = metadata(shared, &request, code);
            metadata.authoritative = true;
            encoded(&request, transport, metadata, &sections)
        }
    }
}

/// Asks the node's resolvers; None: there is no way to say it.
pub(crate) async fn forward(shared: &Shared, question: &Forwarding) -> Option<Vec<u8>> {
    Counters::count(&shared.counters.forwarded);
    let Forwarded { code, answers, authorities } =
        shared.forwarder.lookup(question.name.clone(), question.kind).await;
    if code == ResponseCode::ServFail {
        Counters::count(&shared.counters.failed);
    }
    let answers = question.answers.iter().cloned().chain(answers).collect();
    let sections = Sections { answers, authorities, ..Sections::default() };
    finish(shared, question, code, &sections)
}

/// The answer to a question for which there is no room.
pub(crate) fn busy(shared: &Shared, question: &Forwarding) -> Option<Vec<u8>> {
    Counters::count(&shared.counters.failed);
    finish(shared, question, ResponseCode::ServFail, &Sections::default())
}

fn finish(
    shared: &Shared,
    question: &Forwarding,
    code: ResponseCode,
    sections: &Sections,
) -> Option<Vec<u8>> {
    let metadata = metadata(shared, &question.request, code);
    match encoded(&question.request, question.transport, metadata, sections) {
        Step::Reply(reply) => Some(reply),
        Step::Forward(_) | Step::Drop => None,
    }
}

fn forwarding(
    shared: &Shared,
    request: Request,
    transport: Transport,
    answers: Vec<Record>,
    name: Name,
    kind: RecordType,
) -> Step {
    let question = Forwarding { request, transport, answers, name, kind };
    if shared.can_forward() {
        return Step::Forward(Box::new(question));
    }
    busy(shared, &question).map_or(Step::Drop, Step::Reply)
}

fn metadata(shared: &Shared, request: &Request, code: ResponseCode) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = code;
    metadata.recursion_available = shared.can_forward();
    metadata
}

/// A header alone, for what could not be read or is not served.
fn bare(id: u16, code: ResponseCode) -> Step {
    let mut message = Message::error_msg(id, OpCode::Query, code);
    message.metadata.message_type = MessageType::Response;
    message.to_vec().map_or(Step::Drop, Step::Reply)
}

/// Writes an answer; where it would not fit, leaves out the additional records first, then the last half of the
/// answers until it does.
fn encoded(request: &Request, transport: Transport, metadata: Metadata, all: &Sections) -> Step {
    let size = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => PAYLOAD_BYTES_PLAIN,
        (Transport::Udp, Some(_)) => request.max_payload().min(PAYLOAD_BYTES),
    };
    let nothing = Sections::default();
    for (sections, additionals) in [(all, &all.additionals), (all, &nothing.additionals)] {
        match encode(request, size, metadata, sections, additionals) {
            Some((reply, false)) => return Step::Reply(reply),
            Some((_, true)) => {}
            None => return Step::Drop,
        }
    }
    let mut some = Sections { answers: all.answers.clone(), ..Sections::default() };
    loop {
        some.answers.truncate(some.answers.len() / 2);
        let Some((mut reply, cut)) = encode(request, size, metadata, &some, &nothing.additionals) else {
            return Step::Drop;
        };
        if !cut || some.answers.is_empty() {
            // By TCP there is no other way to come back by: some of the addresses are better than none.
            if let (Transport::Udp, Some(flags)) = (transport, reply.get_mut(2)) {
                *flags |= TRUNCATED;
            }
            return Step::Reply(reply);
        }
    }
}

/// Writes one message; returns whether anything was left out.
fn encode(
    request: &Request,
    size: u16,
    metadata: Metadata,
    sections: &Sections,
    additionals: &[Record],
) -> Option<(Vec<u8>, bool)> {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_BYTES);
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if request.edns.is_some() {
        builder.edns(&edns);
    }
    let response = builder.build(metadata, &sections.answers, &sections.authorities, [], additionals);
    let mut bytes = Vec::with_capacity(usize::from(PAYLOAD_BYTES_PLAIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(size);
    let info = response.destructive_emit(&mut encoder).ok()?;
    Some((bytes, info.truncation))
}

/// Rotates the addresses of a name, so that clients that take the first one are spread.
fn spread(answers: &mut [Record], id: u16) {
    let aliases = answers.partition_point(|record| record.record_type() == RecordType::CNAME);
    let addresses = &mut answers[aliases..];
    let all = addresses.iter().all(|r| matches!(r.record_type(), RecordType::A | RecordType::AAAA));
    if all && addresses.len() > 1 {
        addresses.rotate_left(usize::from(id) % addresses.len());
    }
}

fn kind_of(kind: RecordType) -> minisvc_dns::RecordType {
    use minisvc_dns::RecordType as Kind;
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::CNAME => Kind::Cname,
        RecordType::NS => Kind::Ns,
        RecordType::PTR => Kind::Ptr,
        RecordType::SOA => Kind::Soa,
        RecordType::SRV => Kind::Srv,
        RecordType::TXT => Kind::Txt,
        RecordType::ANY => Kind::Any,
        RecordType::AXFR | RecordType::IXFR => Kind::Transfer,
        _ => Kind::Other,
    }
}

/// The records of an answer as hickory has them; None: a name does not fit a message.
fn sections(question: &Name, reply: &Reply) -> Option<Sections> {
    let all = |records: &[minisvc_dns::Record]| {
        records.iter().map(|record| record_of(question, record)).collect::<Option<Vec<_>>>()
    };
    Some(Sections {
        answers: all(&reply.answers)?,
        authorities: all(&reply.authorities)?,
        additionals: all(&reply.additionals)?,
    })
}

fn record_of(question: &Name, record: &minisvc_dns::Record) -> Option<Record> {
    let owner = match &record.owner {
        Owner::Question => question.clone(),
        Owner::Name(name) => name_of(name)?,
    };
    let data = match &record.data {
        Data::Address(IpAddr::V4(address)) => RData::A(A(*address)),
        Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
        Data::Cname(target) => RData::CNAME(CNAME(name_of(target)?)),
        Data::Ns(target) => RData::NS(NS(name_of(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name_of(target)?)),
        Data::Srv { weight, port, target } => RData::SRV(SRV::new(0, *weight, *port, name_of(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![(*text).to_owned()])),
        Data::Soa { primary, mailbox, serial } => {
            let (primary, mailbox) = (name_of(primary)?, name_of(mailbox)?);
            RData::SOA(SOA::new(primary, mailbox, *serial, 7200, 1800, 86400, TTL_SECONDS))
        }
    };
    Some(Record::from_rdata(owner, TTL_SECONDS, data))
}

fn name_of(text: &str) -> Option<Name> {
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}
