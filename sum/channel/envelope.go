package channel

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	maxRequest  = 1 << 20  // bytes of a SOAP request
	maxResponse = 16 << 20 // bytes of a SOAP response
	maxDepth    = 16       // elements, the Envelope included
	maxAttrs    = 32       // attributes of one element
)

// The local names of SOAP 1.2 fault codes.
const (
	soapSender          = "Sender"
	soapReceiver        = "Receiver"
	soapMustUnderstand  = "MustUnderstand"
	soapVersionMismatch = "VersionMismatch"
)

// envelopeError is a message that was refused before it was understood.
type envelopeError struct {
	soapCode string
	text     string
}

func (e *envelopeError) Error() string   { return "SOAP envelope: " + e.text }
func (e *envelopeError) Is(t error) bool { return t == ErrMalformed }
func refuse(format string, a ...any) error {
	return &envelopeError{soapSender, fmt.Sprintf(format, a...)}
}

// Where in an envelope the scanner is.
type place int

const (
	inDocument place = iota
	inEnvelope
	inHeader
	inHeaderBlock
	inBody
	inMessage
)

// frame is one open element.
type frame struct {
	place  place
	schema *schema
	seen   map[xml.Name]bool
}

// scanner walks a whole message and accepts it only if it is one SOAP 1.2
// envelope whose body holds one element known to accept, with known content.
type scanner struct {
	accept    func(xml.Name) *schema // nil: not known
	stack     []frame
	root      bool
	sawBody   bool
	sawHeader bool
	message   xml.Name
}

// scanEnvelope checks raw, and gives the name of the element in its body.
// Document types, comments and processing instructions are refused, as is
// whatever is not UTF-8.
func scanEnvelope(raw []byte, accept func(xml.Name) *schema) (xml.Name, error) {
	if !utf8.Valid(raw) {
		return xml.Name{}, refuse("not UTF-8")
	}
	s := &scanner{accept: accept, stack: []frame{{place: inDocument}}}
	dec := xml.NewDecoder(bytes.NewReader(raw))
	for first := true; ; first = false {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return xml.Name{}, refuse("not well-formed XML: %v", err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			err = s.start(tok)
		case xml.EndElement:
			s.stack = s.stack[:len(s.stack)-1]
		case xml.CharData:
			err = s.text(tok)
		case xml.ProcInst:
			if tok.Target != "xml" || !first {
				err = refuse("processing instruction")
			}
		default: // Comment, Directive
			err = refuse("comment or document type")
		}
		if err != nil {
			return xml.Name{}, err
		}
	}
	if s.message.Local == "" {
		return xml.Name{}, refuse("no message in a body")
	}
	return s.message, nil
}

func (s *scanner) start(el xml.StartElement) error {
	if len(s.stack) > maxDepth {
		return refuse("deeper than %d elements", maxDepth)
	}
	top := &s.stack[len(s.stack)-1]
	next := frame{place: top.place}
	env := el.Name.Space == soapNS
	switch top.place {
	case inDocument:
		if s.root {
			return refuse("more than one root element")
		}
		s.root = true
		if el.Name.Local != "Envelope" {
			return refuse("the root element is not an Envelope")
		}
		if !env {
			return &envelopeError{soapVersionMismatch, "not the namespace of SOAP 1.2"}
		}
		next.place = inEnvelope
	case inEnvelope:
		switch {
		case env && el.Name.Local == "Header" && !s.sawHeader && !s.sawBody:
			s.sawHeader = true
			next.place = inHeader
		case env && el.Name.Local == "Body" && !s.sawBody:
			s.sawBody = true
			next.place = inBody
		default:
			return refuse("unexpected element in the Envelope")
		}
	case inHeader:
		// SOAP 1.2 part 1, 5.2.3: no header block is understood here.
		for _, a := range el.Attr {
			if a.Name.Space == soapNS && a.Name.Local == "mustUnderstand" && a.Value != "0" && a.Value != "false" {
				return &envelopeError{soapMustUnderstand, "a header block that must be understood is not"}
			}
		}
		next.place = inHeaderBlock
	case inHeaderBlock:
	case inBody:
		if s.message.Local != "" {
			return refuse("second element in the body")
		}
		schema := s.accept(el.Name)
		if schema == nil {
			return refuse("unknown message")
		}
		s.message = el.Name
		next.place, next.schema = inMessage, schema
	case inMessage:
		child := top.schema.children[el.Name]
		if child == nil {
			return refuse("unknown element in the message")
		}
		if !child.repeated && top.seen[el.Name] {
			return refuse("element %s given twice", el.Name.Local)
		}
		if top.seen == nil {
			top.seen = make(map[xml.Name]bool)
		}
		top.seen[el.Name] = true
		next.schema = child
	}
	if next.place != inHeaderBlock {
		if err := checkAttrs(el); err != nil {
			return err
		}
	}
	s.stack = append(s.stack, next)
	return nil
}

// checkAttrs lets namespace declarations pass, and xml:lang on SOAP's own
// elements. No message of the WSDL has attributes.
func checkAttrs(el xml.StartElement) error {
	if len(el.Attr) > maxAttrs {
		return refuse("more than %d attributes", maxAttrs)
	}
	for _, a := range el.Attr {
		switch {
		case a.Name.Space == "xmlns", a.Name.Space == "" && a.Name.Local == "xmlns":
		case el.Name.Space == soapNS && a.Name.Local == "lang" && (a.Name.Space == "xml" || a.Name.Space == "http://www.w3.org/XML/1998/namespace"):
		default:
			return refuse("unexpected attribute")
		}
	}
	return nil
}

func (s *scanner) text(data xml.CharData) error {
	top := s.stack[len(s.stack)-1]
	if top.place == inHeaderBlock || top.place == inMessage && top.schema.children == nil {
		return nil
	}
	if len(bytes.Trim(data, " \t\r\n")) != 0 {
		return refuse("text between elements")
	}
	return nil
}

// decodeBody reads the element in the body into v. raw has passed scanEnvelope.
func decodeBody(raw []byte, v any) error {
	dec := xml.NewDecoder(bytes.NewReader(raw))
	inBody := false
	for {
		tok, err := dec.Token()
		if err != nil {
			return refuse("not well-formed XML: %v", err)
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		if inBody {
			if err := dec.DecodeElement(v, &start); err != nil {
				return refuse("a value is not of its type: %v", err)
			}
			return nil
		}
		switch {
		case start.Name.Space == soapNS && start.Name.Local == "Body":
			inBody = true
		case start.Name.Space == soapNS && start.Name.Local == "Envelope":
		default: // the Header, whatever it contains
			if err := dec.Skip(); err != nil {
				return refuse("not well-formed XML: %v", err)
			}
		}
	}
}

const (
	envelopeOpen  = xml.Header + `<env:Envelope xmlns:env="` + soapNS + `"><env:Body>`
	envelopeClose = `</env:Body></env:Envelope>` + "\n"
)

// encodeEnvelope writes v as the element name in a body.
func encodeEnvelope(name string, v any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(envelopeOpen)
	enc := xml.NewEncoder(&b)
	start := xml.StartElement{Name: xml.Name{Space: Namespace, Local: name}}
	if err := enc.EncodeElement(v, start); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, err
	}
	b.WriteString(envelopeClose)
	return b.Bytes(), nil
}

// agentFault is the detail of every SOAP fault.
type agentFault struct {
	Code      string `xml:"Code"`
	Retryable bool   `xml:"Retryable"`
	Message   string `xml:"Message"`
}

// soapFault is SOAP 1.2's own element, as far as an agent writes it.
type soapFault struct {
	Code struct {
		Value string `xml:"http://www.w3.org/2003/05/soap-envelope Value"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Code"`
	Reason struct {
		Text string `xml:"http://www.w3.org/2003/05/soap-envelope Text"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Reason"`
	Detail struct {
		AgentFault *agentFault `xml:"urn:roundsman:agent:v1 AgentFault"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Detail"`
}

// encodeFault writes a fault. Its reason is the code only; what the agent has to
// say is in the typed detail.
func encodeFault(soapCode string, f *Fault) []byte {
	var b strings.Builder
	b.WriteString(envelopeOpen)
	b.WriteString(`<env:Fault><env:Code><env:Value>env:`)
	b.WriteString(soapCode)
	b.WriteString(`</env:Value></env:Code><env:Reason><env:Text xml:lang="en">`)
	xml.EscapeText(&b, []byte("agent fault "+f.Code)) // a Builder does not fail
	b.WriteString(`</env:Text></env:Reason><env:Detail><AgentFault xmlns="` + Namespace + `"><Code>`)
	xml.EscapeText(&b, []byte(f.Code))
	fmt.Fprintf(&b, `</Code><Retryable>%t</Retryable><Message>`, f.Retryable)
	xml.EscapeText(&b, []byte(f.Message))
	b.WriteString(`</Message></AgentFault></env:Detail></env:Fault>`)
	b.WriteString(envelopeClose)
	return []byte(b.String())
}

// soapCodeOf chooses SOAP's code, and with it the HTTP status.
func soapCodeOf(err error, f *Fault) (code string, status int) {
	var ee *envelopeError
	switch {
	case errors.As(err, &ee) && ee.soapCode != soapSender:
		return ee.soapCode, 500
	case f.receiver():
		return soapReceiver, 500
	}
	return soapSender, 400
}
