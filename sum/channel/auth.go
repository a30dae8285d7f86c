package channel

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// The header that authenticates a message:
//
//	Agent-Auth: v1 e=<epoch>,s=<seq>,n=<nonce>,b=exporter,m=<mac>
//
// Its version is part of what is authenticated, and no other is accepted.
const (
	authHeader  = "Agent-Auth"
	authVersion = "v1"
	authBinding = "exporter"

	epochLen = 32 // hexadecimal digits
	nonceLen = 32
	macLen   = 2 * sha256.Size
)

// Headers that are authenticated with the message. The first three are named as
// in RFC 9110 and the IETF resumable upload draft.
const (
	headerContentRange = "Content-Range"
	headerUploadOffset = "Upload-Offset"
	headerUploadLength = "Upload-Length"
	headerRange        = "Range"
	headerFault        = "Agent-Fault" // <code>, or <code>;retryable
)

var boundHeaders = []string{headerContentRange, headerUploadOffset, headerUploadLength, headerRange, headerFault, "Content-Type"}

// unknownEpoch is what a client sends before it knows the agent's epoch.
var unknownEpoch = strings.Repeat("0", epochLen)

// auth is the content of the header.
type auth struct {
	epoch string
	seq   uint64
	nonce string
	mac   string
}

func (a auth) String() string {
	return authVersion + " e=" + a.epoch + ",s=" + strconv.FormatUint(a.seq, 10) + ",n=" + a.nonce + ",b=" + authBinding + ",m=" + a.mac
}

// parseAuth accepts exactly what String writes: one form for one meaning.
func parseAuth(s string) (auth, error) {
	var a auth
	bad := fmt.Errorf("%w: Agent-Auth", ErrMalformed)
	rest, ok := strings.CutPrefix(s, authVersion+" ")
	if !ok {
		return a, bad
	}
	fields := strings.Split(rest, ",")
	if len(fields) != 5 {
		return a, bad
	}
	var value [5]string
	for i, key := range [...]string{"e=", "s=", "n=", "b=", "m="} {
		if value[i], ok = strings.CutPrefix(fields[i], key); !ok {
			return a, bad
		}
	}
	seq, err := strconv.ParseUint(value[1], 10, 64)
	if err != nil || seq == 0 || strconv.FormatUint(seq, 10) != value[1] {
		return a, bad
	}
	if !isLowerHex(value[0], epochLen) || !isLowerHex(value[2], nonceLen) || value[3] != authBinding || !isLowerHex(value[4], macLen) {
		return a, bad
	}
	return auth{epoch: value[0], seq: seq, nonce: value[2], mac: value[4]}, nil
}

// authKeys are the MAC keys of one TLS connection, one per direction.
type authKeys struct{ request, response secret }

// deriveKeys binds the keys to the connection: RFC 9266 names the exporter
// label, its context and its length. With a shared secret the binding is the
// salt. Without one, the input is exporter material under a label of our own,
// because a channel binding is not meant to be kept secret. On a callback it is the
// agent that asks.
func (c *credentials) deriveKeys(cs tls.ConnectionState, callback bool) (authKeys, error) {
	request, response := "roundsman agent-auth v1 manager to agent", "roundsman agent-auth v1 agent to manager"
	if callback {
		request, response = "roundsman agent-auth v1 callback, agent to manager", "roundsman agent-auth v1 callback, manager to agent"
	}
	var k authKeys
	binding, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return k, err
	}
	input := []byte(c.secret)
	if len(input) == 0 {
		// RFC 5705, 4: labels for private use begin with EXPERIMENTAL.
		if input, err = cs.ExportKeyingMaterial("EXPERIMENTAL-roundsman-agent-auth", nil, 32); err != nil {
			return k, err
		}
	}
	if k.request, err = hkdf.Key(sha256.New, input, binding, request, sha256.Size); err != nil {
		return k, err
	}
	k.response, err = hkdf.Key(sha256.New, input, binding, response, sha256.Size)
	return k, err
}

// bodyOfBlob stands for the body's digest where the body is a piece of a blob.
// The request's target, which is authenticated, ends in the digest of the whole
// blob, and that is verified before the blob is used.
const bodyOfBlob = "blob"

func bodyDigest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// macRequest computes the MAC of a request. target is the request line's, raw.
func (k authKeys) macRequest(a auth, method, target string, h http.Header, digest string) string {
	return computeMAC(k.request, a, []string{"request", method, target}, h, digest)
}

// macResponse computes the MAC of a response to the request that a belongs to.
func (k authKeys) macResponse(a auth, status int, h http.Header, digest string) string {
	return computeMAC(k.response, a, []string{"response", strconv.Itoa(status)}, h, digest)
}

// computeMAC writes every field with its length before it, so that no two
// messages have the same input.
func computeMAC(key secret, a auth, first []string, h http.Header, digest string) string {
	m := hmac.New(sha256.New, key)
	put := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		m.Write(n[:])
		m.Write([]byte(s))
	}
	put(authVersion)
	for _, s := range first {
		put(s)
	}
	put(a.epoch)
	put(strconv.FormatUint(a.seq, 10))
	put(a.nonce)
	for _, name := range boundHeaders {
		values := h.Values(name)
		put(strconv.Itoa(len(values)))
		for _, v := range values {
			put(v)
		}
	}
	put(digest)
	return hex.EncodeToString(m.Sum(nil))
}

func equalMAC(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }

// randomHex returns n random hexadecimal digits.
func randomHex(n int) string {
	b := make([]byte, n/2)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// replayWindow remembers which of the last 64 sequence numbers were seen, as
// IPsec does (RFC 4303, 3.4.3). It is per connection, because so are the keys: a
// message of another connection fails its MAC. The caller serialises access.
type replayWindow struct {
	highest uint64
	seen    uint64 // bit i: highest-i was seen
}

// accept records seq, and reports false if it was seen or is too old. Call it
// only after the MAC was verified, or a forged number could shut out the rest.
func (w *replayWindow) accept(seq uint64) bool {
	if seq == 0 {
		return false
	}
	if seq > w.highest {
		if shift := seq - w.highest; shift < 64 {
			w.seen = w.seen<<shift | 1
		} else {
			w.seen = 1
		}
		w.highest = seq
		return true
	}
	age := w.highest - seq
	if age >= 64 || w.seen&(1<<age) != 0 {
		return false
	}
	w.seen |= 1 << age
	return true
}
