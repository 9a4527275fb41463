package netpolicy

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Words for rules. A rule is a row of parts, each of which loads something into
// registers, or goes on only if something is so. Registers hold 4 bytes and are
// counted from 0; what is longer takes several.

type part []expr.Any

// key is a part that loads a set's key into registers from 0 on.
type key part

func register(i uint32) uint32 { return unix.NFT_REG32_00 + i }

func load(k expr.MetaKey, reg uint32) expr.Any {
	return &expr.Meta{Key: k, Register: register(reg)}
}

func payload(base expr.PayloadBase, offset, length, reg uint32) expr.Any {
	return &expr.Payload{Base: base, Offset: offset, Len: length, DestRegister: register(reg)}
}

func link(offset, length, reg uint32) expr.Any {
	return payload(expr.PayloadBaseLLHeader, offset, length, reg)
}

func header(offset, length, reg uint32) expr.Any {
	return payload(expr.PayloadBaseNetworkHeader, offset, length, reg)
}

func transport(offset, length, reg uint32) expr.Any {
	return payload(expr.PayloadBaseTransportHeader, offset, length, reg)
}

func is(what expr.Any, value ...byte) part { return part{what, compare(expr.CmpOpEq, value)} }

func isNot(what expr.Any, value ...byte) part { return part{what, compare(expr.CmpOpNeq, value)} }

func compare(op expr.CmpOp, value []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: register(0), Data: value}
}

// masked goes on if some bits of what is loaded are as value, or are not.
func masked(what expr.Any, mask []byte, op expr.CmpOp, value ...byte) part {
	return part{what, &expr.Bitwise{
		SourceRegister: register(0), DestRegister: register(0), Len: uint32(len(mask)),
		Mask: mask, Xor: make([]byte, len(mask)),
	}, compare(op, value)}
}

// in goes on if the key is in the set; notIn if it is not.
func in(s *nftables.Set, k key) part {
	return append(part(k), &expr.Lookup{SourceRegister: register(0), SetName: s.Name, SetID: s.ID})
}

func notIn(s *nftables.Set, k key) part {
	return append(part(k), &expr.Lookup{SourceRegister: register(0), SetName: s.Name, SetID: s.ID, Invert: true})
}

// note puts the key into the set, and has what is kept with it decide.
func note(s *nftables.Set, k key, kept ...expr.Any) part {
	return append(part(k), &expr.Dynset{
		SrcRegKey: register(0), SetName: s.Name, SetID: s.ID,
		Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: s.Timeout, Exprs: kept,
	})
}

// below goes on for a number of packets per second, over for those beyond it.
func below(perSecond int) expr.Any { return limit(perSecond, false) }

func over(perSecond int) expr.Any { return limit(perSecond, true) }

func limit(perSecond int, over bool) expr.Any {
	return &expr.Limit{
		Type: expr.LimitTypePkts, Rate: uint64(perSecond), Unit: expr.LimitTimeSecond,
		Burst: 4 * uint32(perSecond), Over: over,
	}
}

func logTo(group uint16, prefix string) part {
	return part{&expr.Log{
		Key:     1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
		Group:   group,
		Data:    []byte(prefix),
		Snaplen: loggedBytes,
	}}
}

func verdict(kind expr.VerdictKind, chain string) part {
	return part{&expr.Verdict{Kind: kind, Chain: chain}}
}

func accept() part { return verdict(expr.VerdictAccept, "") }

func drop() part { return verdict(expr.VerdictDrop, "") }

func goTo(chain string) part { return verdict(expr.VerdictGoto, chain) }

func untracked() part { return part{&expr.Notrack{}} }

// immediate loads a number.
func immediate(v uint32, reg uint32) expr.Any {
	return &expr.Immediate{Register: register(reg), Data: binaryutil.NativeEndian.PutUint32(v)}
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// interfaceName is a link's name as the kernel compares it.
func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
