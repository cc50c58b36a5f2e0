// What functions of the core take from Python: arrays and numbers in tuples become parts of a state.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "arrays.hpp"
#include "records.hpp"

namespace netsim {

namespace nb = nanobind;

template <class T, class... Types>
concept OneOf = (std::is_same_v<T, Types> || ...);

// A record that a part of a state has as a reference: to the only entry of an array.
template <class T>
concept Single = OneOf<T, Rules, Totals, Notes, Slots, Window, Packet>;

// An entry of a tuple: a number, or an array, which becomes the view that the field of a part of the state is.
//
// An array that Python must not change becomes a view of constants.
class Field {
 public:
  explicit Field(nb::handle entry, size_t place = 0) : place_(place) {
    if (PyLong_Check(entry.ptr())) {
      number_ = nb::cast<int64_t>(entry);
      return;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(entry.ptr(), &view, PyBUF_CONTIG_RO) != 0) throw nb::python_error();
    data_ = view.buf, entry_bytes_ = view.itemsize, dimensions_ = view.ndim, constant_ = view.readonly;
    std::copy_n(view.shape, std::min(view.ndim, 3), shape_);
    PyBuffer_Release(&view);
  }
  operator int64_t() const {
    if (dimensions_) throw std::invalid_argument("entry " + std::to_string(place_) + " is no number");
    return number_;
  }
  template <class T>
  operator Span<T>() const {
    return {data<T>(1), shape_[0]};
  }
  template <class T>
  operator Table<T>() const {
    return {data<T>(2), shape_[0], shape_[1]};
  }
  template <class T>
  operator Cube<T>() const {
    return {data<T>(3), shape_[0], shape_[1], shape_[2]};
  }
  operator Records() const { return {data_, static_cast<int64_t>(entry_bytes_)}; }
  template <Single T>
  operator T&() const {
    return *data<T>(1);
  }

 private:
  template <class T>
  T* data(int dimensions) const {
    if (entry_bytes_ != sizeof(T) || dimensions_ != dimensions) {
      auto shape = [](size_t bytes, int dimensions) {
        return std::to_string(bytes) + " bytes in " + std::to_string(dimensions) + " dimensions";
      };
      throw std::invalid_argument("array " + std::to_string(place_) + " has entries of " +
                                  shape(entry_bytes_, dimensions_) + ", not of " + shape(sizeof(T), dimensions));
    }
    if (constant_ && !std::is_const_v<T>) {
      throw std::invalid_argument("array " + std::to_string(place_) + " must not be changed");
    }
    return static_cast<T*>(data_);
  }
  size_t place_;
  void* data_ = nullptr;
  size_t entry_bytes_ = 0;
  int dimensions_ = 0;
  bool constant_ = false;
  int64_t shape_[3];
  int64_t number_ = 0;
};

// An array that is an argument.
inline Field field(nb::handle array) { return Field(array, 0); }

template <class Part, size_t... place>
Part part_of(nb::handle fields, std::index_sequence<place...>) {
  auto tuple = nb::cast<nb::tuple>(fields);
  if (tuple.size() != sizeof...(place)) throw std::invalid_argument("a part of the state has another number of arrays");
  return Part{Field(tuple[place], place)...};
}

template <class Part, size_t fields>
Part part_of(nb::handle tuple) {
  return part_of<Part>(tuple, std::make_index_sequence<fields>());
}

// Add the functions of an engine to the module.
void bind_exact(nb::module_& module);
void bind_forward(nb::module_& module);
void bind_ideal(nb::module_& module);
void bind_parts(nb::module_& module);
void bind_windows(nb::module_& module);

}  // namespace netsim
