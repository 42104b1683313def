// Drives a board's streams clock by clock, and writes down what leaves, and when.
//
//   test_bench PACKETS RESULTS GAPS STALLS SEED RESET_AT SHIFT ENABLED INSIDE SELECTED LOW HIGH MOST_LOG_SD
//
// PACKETS holds, for each, the number of beats (uint32) and the beats' bytes; the last beat of a packet carries tlast. A
// clock in GAPS of 1000 has no beat, one in STALLS of 1000 does not take a result. After RESET_AT accepted beats, if not
// 0, the board is reset for two clocks, in mid-frame, and the packet begins anew. RESULTS gets, for each, the result's
// bytes and three clock numbers (uint64): when the first and the last beat of its packet were accepted, and when the
// result was taken.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "Vinference_board.h"
#include "verilated.h"

namespace {
struct Times { uint64_t first, last; };

std::vector<std::vector<uint8_t>> read_packets(const char* path, size_t beat_bytes) {
    std::vector<std::vector<uint8_t>> packets;
    FILE* file = std::fopen(path, "rb");
    if (!file) { std::perror(path); std::exit(2); }
    uint32_t beats;
    while (std::fread(&beats, 4, 1, file) == 1) {
        std::vector<uint8_t> bytes(beats * beat_bytes);
        if (std::fread(bytes.data(), 1, bytes.size(), file) != bytes.size()) { std::fprintf(stderr, "cut short\n"); std::exit(2); }
        packets.push_back(std::move(bytes));
    }
    std::fclose(file);
    return packets;
}
}  // namespace

int main(int argc, char** argv) {
    if (argc != 14) { std::fprintf(stderr, "wants 13 arguments, see its source\n"); return 2; }
    const size_t beat_bytes = BEAT_BYTES, result_bytes = RESULT_BYTES;
    const auto packets = read_packets(argv[1], beat_bytes);
    FILE* results = std::fopen(argv[2], "wb");
    if (!results) { std::perror(argv[2]); return 2; }
    const unsigned gaps = std::atoi(argv[3]), stalls = std::atoi(argv[4]);
    std::mt19937 draw(std::atoi(argv[5]));
    const uint64_t reset_at = std::strtoull(argv[6], nullptr, 10);

    VerilatedContext context;
    Vinference_board board{&context};
    board.shift = std::atoi(argv[7]);
    board.rule_enabled = std::atoi(argv[8]);
    board.rule_inside = std::atoi(argv[9]);
    board.rule_selected = std::atoi(argv[10]);
    board.rule_low = std::atoi(argv[11]);
    board.rule_high = std::atoi(argv[12]);
    board.rule_most_log_sd = std::atoi(argv[13]);
    uint64_t clock = 0, accepted = 0;
    size_t packet = 0, beat = 0, taken = 0;
    std::deque<Times> flying;
    Times current{};
    int reset = 2;
    bool was_reset = false;
    uint64_t idle = 0;
    while (taken < packets.size()) {
        const bool offered = packet < packets.size() && (board.s_axis_tvalid || draw() % 1000 >= gaps);
        board.rst = reset > 0;
        board.s_axis_tvalid = offered && !reset;
        if (offered) {
            std::memcpy(&board.s_axis_tdata, packets[packet].data() + beat * beat_bytes, beat_bytes);
            board.s_axis_tlast = (beat + 1) * beat_bytes == packets[packet].size();
        }
        board.m_axis_tready = draw() % 1000 >= stalls;
        board.clk = 0;
        board.eval();
        // What both sides agree on before the edge happens at the edge.
        const bool in = board.s_axis_tvalid && board.s_axis_tready && !reset;
        const bool out = board.m_axis_tvalid && board.m_axis_tready && !reset;
        const bool last = board.s_axis_tlast;
        uint8_t word[RESULT_BYTES];
        if (out) std::memcpy(word, &board.m_axis_tdata, result_bytes);
        board.clk = 1;
        board.eval();
        if (out) {
            if (flying.empty()) { std::fprintf(stderr, "a result that no packet asked for, at clock %llu\n", (unsigned long long)clock); return 3; }
            const uint64_t times[3] = {flying.front().first, flying.front().last, clock};
            flying.pop_front();
            std::fwrite(word, 1, result_bytes, results);
            std::fwrite(times, 8, 3, results);
            ++taken;
            idle = 0;
        }
        if (in) {
            if (beat == 0) current.first = clock;
            ++beat;
            ++accepted;
            idle = 0;
            if (last) {
                current.last = clock;
                flying.push_back(current);
                ++packet;
                beat = 0;
                board.s_axis_tvalid = 0;
            }
        } else if (!offered) {
            board.s_axis_tvalid = 0;
        }
        if (reset) --reset;
        if (in) board.s_axis_tvalid = 0;
        if (reset_at && !was_reset && accepted == reset_at) {
            was_reset = true;
            reset = 2;
            packet -= flying.size();  // their results are lost with the reset: they are sent again
            flying.clear();
            beat = 0;
            board.s_axis_tvalid = 0;
        }
        ++clock;
        if (++idle > 100000) { std::fprintf(stderr, "nothing moved for 100000 clocks, at packet %zu beat %zu, %zu results\n", packet, beat, taken); return 4; }
    }
    std::fclose(results);
    board.final();
    return 0;
}
