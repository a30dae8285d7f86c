package channel

import (
	"context"
	"encoding"
	"encoding/xml"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

// Namespace is the target namespace of the WSDL.
const Namespace = "urn:roundsman:agent:v1"

const soapNS = "http://www.w3.org/2003/05/soap-envelope"

// schema is what an element may contain. The parser accepts nothing else.
type schema struct {
	children map[xml.Name]*schema // nil: text only
	repeated bool
	order    []xml.Name // as in the WSDL's xs:sequence
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// schemaOf derives the schema from a message's Go type, so that the two cannot
// differ.
func schemaOf(t reflect.Type) *schema {
	s := &schema{}
	if t.Kind() == reflect.Slice && !reflect.PointerTo(t).Implements(textUnmarshaler) {
		s.repeated = true
		t = t.Elem()
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(textUnmarshaler) {
		return s
	}
	s.children = make(map[xml.Name]*schema, t.NumField())
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("xml"), ",")
		name := xml.Name{Space: Namespace, Local: tag}
		if space, local, ok := strings.Cut(tag, " "); ok {
			name = xml.Name{Space: space, Local: local}
		}
		s.children[name] = schemaOf(f.Type)
		s.order = append(s.order, name)
	}
	return s
}

// operation is one entry of the static table that requests are dispatched on.
type operation struct {
	name     string
	request  *schema
	response *schema
	// foreign: a client without message authentication may call it, where the
	// server allows such clients at all.
	foreign    bool
	newRequest func() any
	serve      func(ctx context.Context, handler, req any) (any, error)
}

func newOperation[H, Q, P any](name string, foreign bool, call func(H, context.Context, *Q) (*P, error)) operation {
	return operation{
		name:       name,
		request:    schemaOf(reflect.TypeFor[Q]()),
		response:   schemaOf(reflect.TypeFor[P]()),
		foreign:    foreign,
		newRequest: func() any { return new(Q) },
		serve: func(ctx context.Context, h, req any) (any, error) {
			p, err := call(h.(H), ctx, req.(*Q))
			if err == nil && p == nil {
				err = fmt.Errorf("%s returned neither a response nor an error", name)
			}
			return p, err
		},
	}
}

// operations are those of [Handler]. They are computed once and never change.
var operations = sync.OnceValue(func() map[string]operation {
	return tableOf(
		newOperation("Inventory", true, Handler.Inventory),
		newOperation("Install", false, Handler.Install),
		newOperation("Status", true, Handler.Status),
		newOperation("ListJobs", false, Handler.ListJobs),
		newOperation("Cancel", false, Handler.Cancel),
		newOperation("Heartbeat", false, Handler.Heartbeat),
		newOperation("Reboot", false, Handler.Reboot),
		newOperation("Move", false, Handler.Move),
		newOperation("Stop", false, Handler.Stop),
	)
})

// callbackOperations are those of [CallbackHandler].
var callbackOperations = sync.OnceValue(func() map[string]operation {
	return tableOf(
		newOperation("Contact", false, CallbackHandler.Contact),
		newOperation("Report", false, CallbackHandler.Report),
	)
})

func tableOf(ops ...operation) map[string]operation {
	table := make(map[string]operation)
	for _, op := range ops {
		table[op.name] = op
	}
	return table
}

// checkText refuses strings that XML 1.0 cannot carry. The encoder would
// silently replace such characters, and a changed argument is another command.
func checkText(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return checkText(v.Elem())
		}
	case reflect.Struct:
		if v.Type().Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			return nil
		}
		for _, f := range v.Fields() {
			if err := checkText(f); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil
		}
		for i := range v.Len() {
			if err := checkText(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.String:
		s := v.String()
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: a string is not UTF-8", ErrMalformed)
		}
		for _, r := range s {
			if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
				return fmt.Errorf("%w: XML cannot carry the character %U", ErrMalformed, r)
			}
		}
	}
	return nil
}

var faultSchema = sync.OnceValue(func() *schema { return schemaOf(reflect.TypeFor[soapFault]()) })
