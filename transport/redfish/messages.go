package redfish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// message is one entry of extended information (DSP0266, "Extended information"), or
// one of what older services put in its place.
type message struct {
	ID    text  `json:"MessageId"`
	OldID text  `json:"MessageID"`
	Text  text  `json:"Message"`
	Args  texts `json:"MessageArgs"`
}

// id is the identifier, such as "iLO.2.34.UpdateInvalidFile".
func (m message) id() string {
	if m.ID == "" {
		return string(m.OldID)
	}
	return string(m.ID)
}

// key is the last segment of the identifier: registries change name and version from
// one firmware to the next.
func (m message) key() string { return lastSegment(m.id()) }

// String is the identifier, the words and the arguments, as they came.
func (m message) String() string {
	parts := []string{}
	if id := m.id(); id != "" {
		parts = append(parts, id)
	}
	if m.Text != "" {
		parts = append(parts, string(m.Text))
	}
	s := strings.Join(parts, ": ")
	if len(m.Args) > 0 && m.Text == "" {
		s += " (" + strings.Join(m.Args, ", ") + ")"
	}
	return s
}

// fine reports whether a message says that all is well: services add one to answers
// that are no errors.
func (m message) fine() bool {
	switch m.key() {
	case "Success", "Created", "NoOperation", "AccountModified", "Accepted":
		return true
	}
	return false
}

func lastSegment(id string) string { return id[strings.LastIndexByte(id, '.')+1:] }

// messages returns what an answer has of messages, in whichever place. It is nil for
// what is no JSON.
func messages(body []byte) []message {
	if len(body) == 0 {
		return nil
	}
	var v struct {
		Error struct {
			Code text      `json:"code"`
			Text text      `json:"message"`
			Info []message `json:"@Message.ExtendedInfo"`
		} `json:"error"`
		Info []message       `json:"@Message.ExtendedInfo"`
		Old  json.RawMessage `json:"Messages"` // iLO 4 and the tasks of all
	}
	if decode(body, &v) != nil {
		return nil
	}
	out := append(v.Error.Info, v.Info...)
	var old []message
	if json.Unmarshal(v.Old, &old) == nil {
		out = append(out, old...)
	}
	if len(out) == 0 && (v.Error.Code != "" || v.Error.Text != "") {
		out = append(out, message{ID: v.Error.Code, Text: v.Error.Text})
	}
	return out
}

// meaning is what a message means here.
type meaning struct {
	kind error
	hint string
}

const (
	hintTPM  = "a trusted module is in use: have its recovery key at hand, and allow it (Options.TPMOverride)"
	hintBusy = "wait until it is over, and try again"
	hintHop  = "the firmware there is too old for this one: install the version in between first"
)

// meanings go by the last segment of the identifier.
var meanings = map[string]meaning{
	"FirmwareFlashAlreadyInProgress":           {transport.ErrBusy, hintBusy},
	"FirmwareFlashAlreadyInProgressError":      {transport.ErrBusy, hintBusy},
	"ComponentUploadAlreadyInProgress":         {transport.ErrBusy, hintBusy},
	"UpdateRepositoryUnavailableDueToBMCReset": {transport.ErrBusy, "the management processor starts; " + hintBusy},
	"UpdateTaskQueueFull":                      {transport.ErrBusy, "remove tasks that are over from the update queue"},
	"FirmwareFileLocked":                       {transport.ErrBusy, "an install set or a task holds the component; remove that first"},
	"ServiceTemporarilyUnavailable":            {transport.ErrBusy, hintBusy},
	"ServiceInUnknownState":                    {transport.ErrBusy, hintBusy},
	"ResourceInUse":                            {transport.ErrBusy, hintBusy},
	"UpdateInProgress":                         {transport.ErrBusy, hintBusy},
	"SessionLimitExceeded":                     {transport.ErrBusy, "all sessions of the management processor are taken: end some, or wait until they expire"},
	"FWFlashTPMOverrideFlagRequired":           {transport.ErrRejected, hintTPM},
	"SimpleUpdateInvalidImageURI":              {transport.ErrRejected, "the target does not take the address of the image"},
	"UpdateInvalidFile":                        {transport.ErrRejected, "the file is no image for this target"},
	"UpdateSignatureValidationFailed":          {transport.ErrRejected, "the signature does not fit; where the firmware there is old, a version in between may be needed first"},
	"MinimumFirmwareVersionRequirementNotMet":  {transport.ErrRejected, hintHop},
	"InvalidTargetsURI":                        {transport.ErrRejected, "a part that is to be updated does not exist"},
	"ActionParameterUnknown":                   {transport.ErrRejected, "this firmware does not know a parameter"},
	"FirmwareFlashNotPossible":                 {transport.ErrRejected, ""},
	"NoValidSession":                           {transport.ErrAuth, ""},
	"UnauthorizedLoginAttempt":                 {transport.ErrAuth, "check user and password"},
	"InvalidLoginCredentials":                  {transport.ErrAuth, "check user and password"},
	"AccountLockout":                           {transport.ErrAuth, "ask who looks after the account"},
	"InsufficientPrivilege":                    {fs.ErrPermission, "the account lacks a privilege of the management processor"},
	"InsufficientPrivileges":                   {fs.ErrPermission, "the account lacks a privilege of the management processor"},
	"ResourceMissingAtURI":                     {fs.ErrNotExist, ""},
	"ResourceNotFound":                         {fs.ErrNotExist, ""},
	"ActionNotSupported":                       {errors.ErrUnsupported, ""},
}

// statusError is a status of HTTP (RFC 9110, section 15) with what came along.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("HTTP %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + e.text
	}
	return strings.TrimSpace(s)
}

// ErrorCode implements what transport.CodeOf looks for.
func (e *statusError) ErrorCode() transport.Code {
	return transport.Code{Space: "http", Value: strconv.Itoa(e.status)}
}

// statusKind is the class of a status that no message explains.
func statusKind(status int) error {
	switch status {
	case http.StatusUnauthorized:
		return transport.ErrAuth
	case http.StatusForbidden:
		return fs.ErrPermission
	case http.StatusNotFound, http.StatusGone:
		return fs.ErrNotExist
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return errors.ErrUnsupported
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return transport.ErrTimeout
	case http.StatusConflict, http.StatusLocked, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway:
		return transport.ErrBusy
	case http.StatusInsufficientStorage:
		return transport.ErrNoSpace
	}
	if status < 400 {
		return transport.ErrProtocol
	}
	return transport.ErrRejected
}

// code is a message as a code.
func (m message) code() transport.Code {
	if m.id() == "" {
		return transport.Code{}
	}
	return transport.Code{Space: "redfish", Value: clip(m.id(), 200)}
}

// telling is the message that says most about why something failed.
func telling(all []message) (message, bool) {
	for _, known := range []bool{true, false} {
		for _, m := range all {
			_, ok := meanings[m.key()]
			if !m.fine() && m.id() != "" && ok == known && m.key() != "ExtendedInfo" && m.key() != "GeneralError" {
				return m, true
			}
		}
	}
	if len(all) > 0 && !all[0].fine() {
		return all[0], true
	}
	return message{}, false
}

// words are messages, one after the other.
func words(all []message) string {
	var parts []string
	for _, m := range all {
		if s := m.String(); s != "" {
			parts = append(parts, s)
		}
	}
	return clip(strings.Join(parts, "; "), maxText)
}

// refusal is the error for an answer that is none of success.
func refusal(r *reply) *transport.Error {
	all := messages(r.body)
	text := words(all)
	if text == "" && len(r.body) > 0 {
		text = strconv.Quote(clip(string(r.body), 200)) // no JSON: a page for people, or nothing of use
	}
	e := &transport.Error{Kind: statusKind(r.status), Code: (&statusError{status: r.status}).ErrorCode(), Err: &statusError{r.status, text}}
	m, ok := telling(all)
	if !ok {
		return e
	}
	if c := m.code(); !c.IsZero() {
		e.Code = c
	}
	if known, ok := meanings[m.key()]; ok {
		e.Kind, e.Hint = known.kind, known.hint
	}
	return e
}
