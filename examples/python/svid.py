"""Who this process is: its X.509-SVID from the SPIFFE Workload API, ready for TLS.

A library of the other examples. Its stubs are made from the SPIFFE Workload API's own proto:

    python -m grpc_tools.protoc -I devspiffe/proto --python_out=stubs --grpc_python_out=stubs workload.proto
"""

import os
import ssl

import grpc
import workload_pb2
import workload_pb2_grpc

# SPIFFE Workload Endpoint §4: without this header the call is refused, so that no browser can be made to ask.
HEADER = (("workload.spiffe.io", "true"),)


class Svid:
    """One X.509-SVID and the certificates that vouch for others of its trust domain."""

    def __init__(self, endpoint=None):
        endpoint = endpoint or os.environ["SPIFFE_ENDPOINT_SOCKET"]
        # grpcio would send the socket's path as the host's name, which servers in Rust refuse as none (RFC 3986 §3.2.2).
        host = [("grpc.default_authority", "localhost")]
        with grpc.insecure_channel(endpoint, options=host) as channel:
            api = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            # A stream: it would send the next SVID before this one runs out. These examples end before that.
            answers = api.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER, timeout=10)
            svid = next(iter(answers)).svids[0]
            answers.cancel()
        self.spiffe_id = svid.spiffe_id
        self._chain = "".join(map(ssl.DER_cert_to_PEM_cert, certificates(svid.x509_svid)))
        self._key = ssl.DER_cert_to_PEM_cert(svid.x509_svid_key).replace("CERTIFICATE", "PRIVATE KEY")
        self._roots = "".join(map(ssl.DER_cert_to_PEM_cert, certificates(svid.bundle)))

    def client(self):
        """A context for connections to servers of the trust domain. Ask `peer` who it was."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def server(self):
        """A context for a server that wants its clients' SVIDs. Ask `peer` who it is."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def _context(self, side):
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # An SVID names a workload, not a host (X509-SVID §2): the name is compared by `peer`.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._roots)
        # OpenSSL reads a key from a file only; this one is never on a disk.
        with os.fdopen(os.memfd_create("svid"), "w") as pem:
            pem.write(self._chain + self._key)
            pem.flush()
            context.load_cert_chain(f"/proc/self/fd/{pem.fileno()}")
        return context


def peer(connection):
    """The SPIFFE ID at the other end of a TLS connection whose certificate was verified."""
    names = connection.getpeercert().get("subjectAltName", ())
    ids = [name for kind, name in names if kind == "URI"]
    # X509-SVID §2: exactly one.
    if len(ids) != 1 or not ids[0].startswith("spiffe://"):
        raise ssl.SSLError("the certificate at the other end is no X.509-SVID")
    return ids[0]


def certificates(der):
    """The certificates that stand one after the other in DER."""
    while der:
        size = 2 + der[1]
        if der[1] & 0x80:
            octets = der[1] & 0x7F
            size = 2 + octets + int.from_bytes(der[2 : 2 + octets], "big")
        yield der[:size]
        der = der[size:]
