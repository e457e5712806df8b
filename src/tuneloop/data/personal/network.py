"""E-mail addresses, IP addresses, keys, and the secret parts of URLs.

Sources: RFC 5321 and 5322 (addresses), RFC 3986 (user information and query of a URL), IANA's IPv6 address space (global
unicast 2000::/3, unique local fc00::/7, link-local fe80::/10), RFC 7468 (PEM), and the prefixes that the issuers of keys
document so that leaked ones can be found.
"""

from __future__ import annotations

import ipaddress
import re

from tuneloop.data.personal import context
from tuneloop.data.personal.piece import Found, Piece

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9À-ɏ._%+\-])(?!git@)[A-Za-z0-9À-ɏ](?:[A-Za-z0-9À-ɏ._%+'\-]{0,62}[A-Za-z0-9À-ɏ_%+\-])?@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}"
)
_IPV4 = re.compile(r"(?<![0-9A-Za-z])(?<![0-9][.\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|[.\-][0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z.])(?<![0-9]:)(?<!::)[23Ff][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,34}+(?![0-9A-Za-z])")
_USER_INFORMATION = re.compile(r"://[^\s/:@\0]{0,64}:([^\s/@\0]{1,128})@")
_QUERY = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Za-z]{1,16}[_\-.]){0,3}(?:token|api_?key|app_?key|secret_?key|access_?key|key|secret|sign|sig|signature"
    r"|password|passwd|pwd|auth|session_?id|sid|credential|ticket|security-token)=([^\s&#='()\0]{6,})",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"[?&#;][^\s?]{0,40}\Z")
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:(?=[A-Za-z_\-]{0,60}[0-9])[A-Za-z0-9_\-]{20,}|[A-Za-z0-9]{32,})"  # OpenAI, Anthropic, DeepSeek
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}"  # Stripe
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_\-]{20,}"  # GitHub, GitLab
    r"|(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])|AIza[A-Za-z0-9_\-]{35}"  # AWS, Google
    r"|LTAI[A-Za-z0-9]{12,26}(?![A-Za-z0-9])|AKID[A-Za-z0-9]{32}(?![A-Za-z0-9])"  # Alibaba Cloud, Tencent Cloud
    r"|xox[abprs]-[A-Za-z0-9\-]{10,}|SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}"  # Slack, SendGrid
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|dop_v1_[0-9a-f]{64}"  # Hugging Face, npm, DigitalOcean
    r"|eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{5,}(?:\.[A-Za-z0-9_\-]+)?"  # JWT (RFC 7519)
    r")"
)
SHORTEST_SECRET = 15
"""Characters of the shortest key with a known beginning, a Slack token."""
_PEM_HEADER = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr]?){0,4}(?:[A-Za-z\-]{1,20}: [^\n]{0,60}\s){0,3}\s{0,4}\Z"
)
_PEM_BODY = re.compile(r"[A-Za-z0-9+/=]{16,}")

TOKEN_TAIL = re.compile(r"[A-Za-z0-9_\-.+/=%~]*")
"""How a secret goes on that is longer than the window."""
PEM_TAIL = re.compile(r"(?:[\s\\]{0,8}[A-Za-z0-9+/=]+)*")
"""How a private key goes on: lines of base64, up to the hyphens of its last line."""


def emails(piece: Piece) -> Found:
    if piece.has("@"):
        yield from (m.span() for m in _EMAIL.finditer(piece.text, piece.at))


def url_secrets(piece: Piece) -> Found:
    if piece.has("://"):
        yield from (m.span(1) for m in _USER_INFORMATION.finditer(piece.text, piece.at))
    if piece.has("="):
        for found in _QUERY.finditer(piece.text, piece.at):
            if piece.says(_IN_URL, found.start()):
                yield found.span(1)


def secrets(piece: Piece) -> Found:
    if len(piece.text) - piece.at >= SHORTEST_SECRET:
        yield from (m.span() for m in _SECRET.finditer(piece.text, piece.at))


def private_key(piece: Piece) -> tuple[int, int] | None:
    """The first line of a private key, where the segment stands below its header."""
    if not piece.says(_PEM_HEADER, piece.at, context.CONTEXT):
        return None
    body = _PEM_BODY.match(piece.text, piece.at)
    return body.span() if body else None


def ips(piece: Piece) -> Found:
    for found in _IPV4.finditer(piece.text, piece.at) if piece.has(".") else ():
        if _is_host(found[0], piece) and not _is_version(found[0], piece, found.start()):
            yield found.span()
    if piece.has(":"):
        for found in _IPV6.finditer(piece.text, piece.at):
            address = found[0] if found[0].endswith("::") else found[0].rstrip(":")
            if _is_host(address, piece):
                yield found.start(), found.start() + len(address)


def _is_host(address: str, piece: Piece) -> bool:
    """Whether this is an address that one machine may have."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if address.endswith(".0.0"):  # a network, not a machine in it
        return False
    if ip.is_unspecified or ip.is_loopback or ip.is_multicast or (ip.version == 4 and ip.is_reserved):
        return False
    if ip.version == 6 and not (ip.is_link_local or int(ip) >> 125 == 1 or int(ip) >> 121 == 0xFC >> 1):
        return False
    return piece.rules.private_ips or not ip.is_private


def _is_version(quad: str, piece: Piece, at: int) -> bool:
    """``version 4.18.0.305``; and four single figures anywhere, except where the words speak of addresses."""
    if piece.says(context.VERSION, at):
        return True
    return len(quad) == 7 and not piece.says(context.IP, at)
