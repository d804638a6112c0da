"""Reads DNS messages, one in hexadecimal on each line, and prints what dnspython finds in each: the same words as
conformance/src/dns/decoders.rs has for hickory-proto."""

import sys

import dns.flags
import dns.message


def records(section):
    for rrset in section:
        for data in rrset:
            text = data.to_text().replace('"', "")
            yield f"{rrset.name} {rrset.ttl} {int(rrset.rdtype)} {text}"


for line in sys.stdin:
    # As it stands on the wire: equal records in a row are several.
    message = dns.message.from_wire(bytes.fromhex(line.strip()), one_rr_per_rrset=True)
    bits = [dns.flags.AA, dns.flags.TC, dns.flags.RD, dns.flags.RA]
    flags = "".join("1" if message.flags & bit else "0" for bit in bits)
    parts = [f"{message.id} {int(message.rcode())} {flags}"]
    parts += [f"{q.name} {int(q.rdtype)}" for q in message.question]
    for section in (message.answer, message.authority, message.additional):
        parts.append("--")
        parts += list(records(section))
    parts.append(f"edns {message.edns} {message.payload}" if message.edns >= 0 else "none")
    print("|".join(parts))
