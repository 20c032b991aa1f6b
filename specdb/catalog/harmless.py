"""Scalar, aggregate and window functions that strangers may call: pure, of bounded result, blind to the machine.

Left out on purpose: whatever reads settings, names, files or logs; internal states; and what makes large values out of
small ones in one uninterruptible step (``repeat``, ``replace``, ``range`` as a scalar, ``lpad``, ``list_resize``), or takes
time that grows with the square of a text's length in one such step (``levenshtein``).
A function that a later DuckDB brings is refused until it is listed here.
"""

from __future__ import annotations

__all__ = ["HARMLESS"]

_OPERATORS = "!~~ !~~* % & && * ** + - / // < << <= <> = > >= >> @ @> <@ ^ ^@ | || ~ ~~ ~~* ~~~ != <=> ->> -> <->"

_NUMBERS = """
abs acos acosh add asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp floor
fdiv fmod gamma gcd greatest isfinite isinf isnan lcm least lgamma ln log log10 log2 mod multiply nextafter pi pow
power radians random round round_even sign signbit sin sinh sqrt subtract tan tanh trunc xor hash if nullif coalesce
"""

_TEXT = """
ascii bar chr concat concat_ws contains ends_with format_bytes instr lcase left len length like_escape
lower ltrim not_like_escape prefix regexp_extract regexp_extract_all regexp_full_match regexp_matches
reverse right rtrim split split_part starts_with str_split string_split strip_accents strlen strpos substr
substring suffix translate trim ucase upper md5 sha256 parse_filename
ilike_escape not_ilike_escape collate_nocase
"""

_TIME = """
age century current_date date_diff date_part date_sub date_trunc datediff datepart day dayname dayofmonth dayofweek
dayofyear decade epoch epoch_ms hour julian last_day make_date make_timestamp minute month monthname now quarter
second strftime strptime time_bucket to_days to_hours to_minutes to_months to_seconds to_timestamp to_weeks to_years
today week year yearweek try_strptime
"""

_NESTED = """
array_cosine_distance array_cosine_similarity array_distance array_extract array_inner_product array_length
array_value array_contains element_at flatten list_any_value list_append list_avg list_concat list_contains
list_cosine_distance list_cosine_similarity list_count list_distance list_distinct list_dot_product list_element
list_extract list_filter list_apply list_first list_has list_has_all list_has_any list_indexof list_inner_product
list_intersect list_last list_max list_median list_min list_position list_reverse list_reverse_sort list_slice
list_sort list_stddev_samp list_sum list_transform list_unique list_value list_zip map map_entries map_extract
map_keys map_values row struct_extract struct_pack typeof unnest cardinality array_slice
"""

_AGGREGATES = """
any_value approx_count_distinct approx_quantile arg_max arg_min argmax argmin array_agg avg bit_and bit_or bool_and
bool_or corr count count_if count_star countif covar_pop covar_samp entropy favg first fsum geomean histogram kurtosis
last list mad max max_by mean median min min_by mode product quantile quantile_cont quantile_disc regr_avgx regr_avgy
regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile sem skewness stddev
stddev_pop stddev_samp string_agg group_concat sum var_pop var_samp variance wavg weighted_avg cume_dist dense_rank
fill first_value lag last_value lead nth_value ntile percent_rank rank rank_dense row_number
"""

_OURS = "knn similarity in_cone separation_arcsec healpix galactic_l galactic_b"

#: Names in lower case.
HARMLESS = frozenset(" ".join([_OPERATORS, _NUMBERS, _TEXT, _TIME, _NESTED, _AGGREGATES, _OURS]).split())
