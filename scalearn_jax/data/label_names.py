"""Names of the labels of the multi-label data sets, in the order of their ids, which stored heads rely on."""

# The data card of nlp-thedeep/humset, version 1.0.0.
HUMSET = {
    "sectors": (
        "Agriculture", "Cross", "Education", "Food Security", "Health", "Livelihoods", "Logistics", "Nutrition",
        "Protection", "Shelter", "WASH",
    ),
    "pillars_1d": (
        "Casualties", "Context", "Covid-19", "Displacement", "Humanitarian Access", "Information And Communication",
        "Shock/Event",
    ),
    "subpillars_1d": (
        "Casualties->Dead", "Casualties->Injured", "Casualties->Missing", "Context->Demography", "Context->Economy",
        "Context->Environment", "Context->Legal & Policy", "Context->Politics", "Context->Security & Stability",
        "Context->Socio Cultural", "Covid-19->Cases", "Covid-19->Contact Tracing", "Covid-19->Deaths",
        "Covid-19->Hospitalization & Care", "Covid-19->Restriction Measures", "Covid-19->Testing",
        "Covid-19->Vaccination", "Displacement->Intentions", "Displacement->Local Integration",
        "Displacement->Pull Factors", "Displacement->Push Factors", "Displacement->Type/Numbers/Movements",
        "Humanitarian Access->Number Of People Facing Humanitarian Access Constraints/Humanitarian Access Gaps",
        "Humanitarian Access->Physical Constraints", "Humanitarian Access->Population To Relief",
        "Humanitarian Access->Relief To Population",
        "Information And Communication->Communication Means And Preferences",
        "Information And Communication->Information Challenges And Barriers",
        "Information And Communication->Knowledge And Info Gaps (Hum)",
        "Information And Communication->Knowledge And Info Gaps (Pop)", "Shock/Event->Hazard & Threats",
        "Shock/Event->Type And Characteristics", "Shock/Event->Underlying/Aggravating Factors",
    ),
    "pillars_2d": (
        "At Risk", "Capacities & Response", "Humanitarian Conditions", "Impact", "Priority Interventions",
        "Priority Needs",
    ),
    "subpillars_2d": (
        "At Risk->Number Of People At Risk", "At Risk->Risk And Vulnerabilities",
        "Capacities & Response->International Response", "Capacities & Response->Local Response",
        "Capacities & Response->National Response", "Capacities & Response->Number Of People Reached/Response Gaps",
        "Humanitarian Conditions->Coping Mechanisms", "Humanitarian Conditions->Living Standards",
        "Humanitarian Conditions->Number Of People In Need", "Humanitarian Conditions->Physical And Mental Well Being",
        "Impact->Driver/Aggravating Factors", "Impact->Impact On People",
        "Impact->Impact On Systems, Services And Networks", "Impact->Number Of People Affected",
        "Priority Interventions->Expressed By Humanitarian Staff", "Priority Interventions->Expressed By Population",
        "Priority Needs->Expressed By Humanitarian Staff", "Priority Needs->Expressed By Population",
    ),
}  # fmt: skip
# Disaster response messages (Figure Eight), 36 categories grouped by their parents into five families.
DISASTER_RESPONSE = {
    "message_type": ("related", "request", "offer", "direct_report"),
    "pillars": ("aid_related", "infrastructure_related", "weather_related"),
    "aid": (
        "medical_help", "medical_products", "search_and_rescue", "security", "military", "water", "food", "shelter",
        "clothing", "money", "missing_people", "refugees", "death", "other_aid",
    ),
    "infrastructure": (
        "transport", "buildings", "electricity", "tools", "hospitals", "shops", "aid_centers", "other_infrastructure",
    ),
    "weather": ("floods", "storm", "fire", "earthquake", "cold", "other_weather"),
}  # fmt: skip
